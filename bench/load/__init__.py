"""What the service does under load, beside a bare FastAPI echo of the same requests on the same core."""
