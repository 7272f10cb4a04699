"""The tasks in the interfaces of other libraries. Each has its own module, so that only that library is imported."""
