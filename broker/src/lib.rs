//! The quorate process.

pub mod config;
