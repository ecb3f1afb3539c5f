"""The bundled base model, and how it and the sample data were made."""
