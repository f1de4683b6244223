//! What lies between an accepted socket and MQTT bytes.
//!
//! A listener takes a connection, reads its PROXY header if it expects one ([`proxy_protocol`]), unwraps TLS if it
//! offers that, and performs the WebSocket handshake if it speaks that ([`websocket`]). Behind this folder a
//! connection is a stream of MQTT bytes, whatever carried them.

pub mod proxy_protocol;
pub mod websocket;
