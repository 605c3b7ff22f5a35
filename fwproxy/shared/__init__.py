"""Shared redirections: which targets may have one, on which port, remembered over restarts."""
