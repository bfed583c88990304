"""The feedback store: what is asked, who is asked, and everything they said, in SQLite or PostgreSQL."""
