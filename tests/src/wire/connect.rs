//! CONNECT and the will in it, as a client sends them.

use super::outgoing::with_properties;
use super::{Encode, Properties, Property, Version, fixed, put_binary};

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Properties,
}

with_properties!(Will);

impl Will {
    /// A will of QoS 0, not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: 0,
            retain: false,
            properties: Properties::default(),
        }
    }

    /// Sets the QoS.
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// Sets the RETAIN flag.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Waits so many seconds.
    pub fn delay(self, secs: u32) -> Self {
        self.property(Property::WillDelay(secs))
    }
}

/// CONNECT.
#[derive(Clone, Debug)]
pub struct ConnectBuilder {
    client_id: String,
    clean: bool,
    keep_alive: u16,
    will: Option<Will>,
    user_name: Option<String>,
    password: Option<Vec<u8>>,
    properties: Properties,
}

/// A CONNECT with clean start and without keep alive.
pub fn connect(client_id: &str) -> ConnectBuilder {
    ConnectBuilder {
        client_id: client_id.into(),
        clean: true,
        keep_alive: 0,
        will: None,
        user_name: None,
        password: None,
        properties: Properties::default(),
    }
}

with_properties!(ConnectBuilder);

impl ConnectBuilder {
    /// Takes the session up where there is one: clean start 0.
    pub fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    /// Keep alive in seconds.
    pub fn keep_alive(mut self, secs: u16) -> Self {
        self.keep_alive = secs;
        self
    }

    /// Sets the will.
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// Sets the user name.
    pub fn user_name(mut self, user_name: &str) -> Self {
        self.user_name = Some(user_name.into());
        self
    }

    /// Sets the password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A session that outlives the connection: at 3.x clean session 0 (on the builder already when asked for), at 5 so
    /// many seconds.
    pub fn expiry(self, secs: u32) -> Self {
        self.property(Property::SessionExpiry(secs))
    }

    fn flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 0b100 | will.qos << 3 | u8::from(will.retain) << 5);
        let password = u8::from(self.password.is_some()) << 6;
        u8::from(self.clean) << 1 | will | password | u8::from(self.user_name.is_some()) << 7
    }
}

impl Encode for ConnectBuilder {
    fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        put_binary(
            &mut body,
            if version == Version::V3_1 {
                b"MQIsdp"
            } else {
                b"MQTT"
            },
        );
        body.extend([version as u8, self.flags()]);
        body.extend(self.keep_alive.to_be_bytes());
        let five = version == Version::V5;
        if five {
            self.properties.write(&mut body);
        }
        put_binary(&mut body, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            if five {
                will.properties.write(&mut body);
            }
            put_binary(&mut body, will.topic.as_bytes());
            put_binary(&mut body, &will.payload);
        }
        for field in [
            self.user_name.as_ref().map(String::as_bytes),
            self.password.as_deref(),
        ]
        .into_iter()
        .flatten()
        {
            put_binary(&mut body, field);
        }
        fixed(0x10, &body)
    }
}
