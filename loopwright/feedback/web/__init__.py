"""The annotation app: pages for people, a JSON API for programs, one process, no third party."""
