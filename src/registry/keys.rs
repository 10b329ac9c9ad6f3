//! Every Redis key and channel, named in one place. Nothing else formats one.
