"""The tasks in other libraries' interfaces, one module each so that only the wanted library is imported."""
