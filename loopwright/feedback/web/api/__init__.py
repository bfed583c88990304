"""The JSON API: /api/v1. Its description is at /api/v1/openapi.json."""
