"""Rehearsal: rules over the past, and exercises. Nothing here touches the state of a running detector."""
