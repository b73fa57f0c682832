//! Programs that are run between guests.
