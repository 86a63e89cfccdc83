"""MySQL's wire: its servers, its clients, and what moves between them."""
