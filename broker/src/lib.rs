//! The quorate process.
