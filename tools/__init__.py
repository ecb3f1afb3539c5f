"""The world outside the model: mock functions, the sandbox, chat endpoints."""
