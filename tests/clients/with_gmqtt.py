"""gmqtt against the broker: with_gmqtt.py HOST PORT 3.1.1|5"""

import asyncio
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PROTOCOL = MQTTv50 if VERSION == "5" else MQTTv311
NAME = f"gmqtt-{VERSION}"
DEADLINE = 20


class Peer:
    """A connected client; what it receives is in `messages`."""

    def __init__(self, name, durable):
        options = {"session_expiry_interval": 60} if durable and VERSION == "5" else {}
        self.client = gmqtt.Client(name, clean_session=not durable, **options)
        self.subscribed, self.messages = asyncio.Queue(), asyncio.Queue()
        self.client.on_subscribe = lambda _client, _mid, qos, _properties: self.subscribed.put_nowait(qos)
        self.client.on_message = self.received

    def received(self, _client, _topic, payload, qos, properties):
        self.messages.put_nowait((bytes(payload), qos, bool(properties["retain"]), properties))
        return 0

    async def subscribe(self, topic_filter, qos):
        self.client.subscribe(topic_filter, qos=qos)
        granted = await asyncio.wait_for(self.subscribed.get(), DEADLINE)
        assert list(granted) == [qos], granted

    def publish(self, topic, payload, qos, retain=False):
        options = {"user_property": ("name", "value")} if VERSION == "5" else {}
        self.client.publish(topic, payload, qos=qos, retain=retain, **options)

    async def expect(self, payload, qos, retain=False):
        message = await asyncio.wait_for(self.messages.get(), DEADLINE)
        assert message[:3] == (payload, qos, retain), message
        if VERSION == "5":
            assert message[3]["user_property"] == [("name", "value")], message


async def peer(name, durable=False):
    connected = Peer(name, durable)
    await asyncio.wait_for(connected.client.connect(HOST, PORT, version=PROTOCOL, keepalive=10), DEADLINE)
    return connected


async def main():
    live = await peer(NAME)
    await live.subscribe(f"{NAME}/#", 2)
    for qos in range(3):
        live.publish(f"{NAME}/x", b"live %d" % qos, qos)
        await live.expect(b"live %d" % qos, qos)
    live.publish(f"{NAME}/retained", b"kept", 1, retain=True)
    await live.expect(b"kept", 1)
    late = await peer(f"{NAME}-late")
    await late.subscribe(f"{NAME}/retained", 1)
    await late.expect(b"kept", 1, retain=True)
    late.publish(f"{NAME}/retained", b"", 1, retain=True)
    await live.expect(b"", 1)
    await late.client.disconnect()

    absent = await peer(f"{NAME}-absent", durable=True)
    await absent.subscribe(f"{NAME}/absent", 2)
    await absent.client.disconnect()
    for qos in (1, 2):
        live.publish(f"{NAME}/absent", b"queued %d" % qos, qos)
        await live.expect(b"queued %d" % qos, qos)
    absent = await peer(f"{NAME}-absent", durable=True)
    for qos in (1, 2):
        await absent.expect(b"queued %d" % qos, qos)
    await absent.client.disconnect()
    await live.client.disconnect()


asyncio.run(main())
