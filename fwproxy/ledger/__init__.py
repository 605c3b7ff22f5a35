"""Who was permitted what, why and until when; read from Python, and written as JSON lines."""
