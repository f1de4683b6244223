//! Tricks on connections and sessions.

use quorate_proto::codec::{Connect, Packet};

use super::{Link, Trick};

/// Packets of a connection after which it is closed, the first time.
const PACKETS: u64 = 200;

/// Closes the first connection of one client after a while, and has the broker forget its session.
pub(crate) struct DropSession {
    role: &'static str,
    seen: u64,
    is_done: bool,
}

impl DropSession {
    /// `role` is how the client's identifier goes on after that of the run.
    pub(crate) const fn new(role: &'static str) -> Self {
        Self {
            role,
            seen: 0,
            is_done: false,
        }
    }
}

impl Trick for DropSession {
    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        if !link.is_of(self.role) {
            return link.to_broker.extend_from_slice(bytes);
        }
        if let Packet::Connect(connect) = packet
            && self.seen >= PACKETS
            && !self.is_done
        {
            self.is_done = true;
            let clean = Connect {
                clean_start: true,
                ..connect.clone()
            };
            return clean.encode(link.version, &mut link.to_broker);
        }
        link.to_broker.extend_from_slice(bytes);
        self.seen += 1;
        link.closes |= self.seen == PACKETS;
    }
}

/// Closes every connection after so many packets, now before and now after they have gone on. No broker is to blame.
pub(crate) struct Cut {
    after: u64,
    seen: u64,
}

impl Cut {
    pub(crate) const fn new(after: u64) -> Self {
        Self { after, seen: 0 }
    }

    fn cuts(&mut self, link: &mut Link) -> bool {
        self.seen += 1;
        // Clients that are there for a moment only are left alone.
        let is_due = self.seen.is_multiple_of(self.after)
            && ["p", "s", "g", "m", "k", "d"].iter().any(|role| link.is_of(role));
        link.closes |= is_due;
        is_due && self.seen.is_multiple_of(2 * self.after)
    }
}

impl Trick for Cut {
    fn take_from_client(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        if !self.cuts(link) && !link.closes {
            link.to_broker.extend_from_slice(bytes);
        }
    }

    fn take_from_broker(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        if !self.cuts(link) && !link.closes {
            link.to_client.extend_from_slice(bytes);
        }
    }
}

/// After so many packets nothing goes on any more, in either direction; connections stay open.
pub(crate) struct Freeze {
    packets_left: u64,
}

impl Freeze {
    pub(crate) const fn after(packets: u64) -> Self {
        Self {
            packets_left: packets,
        }
    }

    fn goes_on(&mut self) -> bool {
        self.packets_left = self.packets_left.saturating_sub(1);
        self.packets_left > 0
    }
}

impl Trick for Freeze {
    fn take_from_client(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        if self.goes_on() {
            link.to_broker.extend_from_slice(bytes);
        }
    }

    fn take_from_broker(&mut self, link: &mut Link, _: &Packet<'_>, bytes: &[u8]) {
        if self.goes_on() {
            link.to_client.extend_from_slice(bytes);
        }
    }
}

/// Takes DISCONNECT of clients with wills for a lost connection.
pub(crate) struct ForgetDisconnect;

impl Trick for ForgetDisconnect {
    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        if matches!(packet, Packet::Disconnect(_)) && link.is_of("w") {
            link.closes = true;
        } else {
            link.to_broker.extend_from_slice(bytes);
        }
    }
}

/// Keeps the acknowledgements of one subscriber's first connection from the broker, until the subscriber finds it too
/// quiet; then the connection is closed.
#[derive(Default)]
pub(crate) struct Stall {
    is_over: bool,
}

impl Trick for Stall {
    fn take_from_client(&mut self, link: &mut Link, packet: &Packet<'_>, bytes: &[u8]) {
        let is_held = !self.is_over && link.is_of("s0");
        match packet {
            Packet::Puback(_) | Packet::Pubrec(_) if is_held => {}
            Packet::Pingreq if is_held => {
                link.closes = true;
                self.is_over = true;
            }
            _ => link.to_broker.extend_from_slice(bytes),
        }
    }
}
