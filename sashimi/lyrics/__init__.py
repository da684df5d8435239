"""The companion: a language model that writes and understands lyrics. Needs the extra `lyrics`."""
