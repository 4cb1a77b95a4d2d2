"""The words that people read: alerts and summaries, English and Japanese, from one template."""
