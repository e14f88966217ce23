"""Where text comes from: local files, the Hugging Face hub, and sources that need nothing but Python."""
