//! openraft behind our own types.
