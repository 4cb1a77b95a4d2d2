"""Collectors for the real program that only tests load: their folder is put behind that of ``collectors``."""
