//! The session state machine of the server's side of one client.
