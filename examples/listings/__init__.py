"""The listings pipeline: real pictures become pages, an index, archives and a catalogue."""
