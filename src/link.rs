//! A link to Redis: who to connect to, and how.
