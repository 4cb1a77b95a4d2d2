"""The words that every part of sekisho speaks. Imports nothing else of ours."""
