"""Eclipse Paho's Python client against the broker: with_paho.py HOST PORT tcp|websockets 3.1|3.1.1|5"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT, TRANSPORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
PROTOCOL = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[VERSION]
NAME = f"paho-{TRANSPORT}-{VERSION}"
DEADLINE = 20


class Peer:
    """A connected client; what it receives is in `messages`."""

    def __init__(self, name, durable=False):
        options = {} if VERSION == "5" else {"clean_session": not durable}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=PROTOCOL, transport=TRANSPORT, **options
        )
        self.connected, self.subscribed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.connected.put((flags.session_present, reason))
        self.client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subscribed.put(reasons)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        if TRANSPORT == "websockets":
            self.client.ws_set_options(path="/mqtt")
        options = {}
        if VERSION == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 60 if durable else 0
            options = {"clean_start": not durable, "properties": properties}
        self.client.connect(HOST, PORT, keepalive=10, **options)
        self.client.loop_start()
        self.session_present, reason = self.connected.get(timeout=DEADLINE)
        assert not reason.is_failure, reason

    def subscribe(self, topic_filter, qos):
        self.client.subscribe(topic_filter, qos)
        reasons = self.subscribed.get(timeout=DEADLINE)
        assert [reason.value for reason in reasons] == [qos], reasons

    def publish(self, topic, payload, qos, retain=False):
        properties = None
        if VERSION == "5":
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = ("name", "value")
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(DEADLINE)
        assert info.is_published(), payload

    def expect(self, payload, qos, retain=False):
        message = self.messages.get(timeout=DEADLINE)
        assert (message.payload, message.qos, message.retain) == (payload, qos, retain), message.payload
        if VERSION == "5":
            assert message.properties.UserProperty == [("name", "value")], message.properties

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def main():
    peer = Peer(NAME)
    peer.subscribe(f"{NAME}/#", 2)
    for qos in range(3):
        peer.publish(f"{NAME}/x", b"live %d" % qos, qos)
        peer.expect(b"live %d" % qos, qos)
    peer.publish(f"{NAME}/x", b"y" * 300_000, 1)
    peer.expect(b"y" * 300_000, 1)

    peer.publish(f"{NAME}/retained", b"kept", 1, retain=True)
    peer.expect(b"kept", 1)
    late = Peer(f"{NAME}-late")
    late.subscribe(f"{NAME}/retained", 1)
    late.expect(b"kept", 1, retain=True)
    late.publish(f"{NAME}/retained", b"", 1, retain=True)
    late.close()

    absent = Peer(f"{NAME}-absent", durable=True)
    assert not absent.session_present
    absent.subscribe(f"{NAME}/absent", 2)
    absent.close()
    for qos in (1, 2):
        peer.publish(f"{NAME}/absent", b"queued %d" % qos, qos)
    absent = Peer(f"{NAME}-absent", durable=True)
    assert absent.session_present or VERSION == "3.1"
    for qos in (1, 2):
        absent.expect(b"queued %d" % qos, qos)
    absent.close()
    peer.close()


main()
