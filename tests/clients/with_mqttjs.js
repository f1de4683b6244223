// MQTT.js against the broker: with_mqttjs.js URL 3.1|3.1.1|5

const assert = require("node:assert");
const { createRequire } = require("node:module");
const path = require("node:path");

const load = createRequire(path.join(__dirname, "installed", "package.json"));
const mqtt = load("mqtt");

const [url, version] = process.argv.slice(2);
const PROTOCOL = { 3.1: 3, "3.1.1": 4, 5: 5 }[version];
const NAME = `mqttjs-${url.split(":")[0]}-${version}`;
const DEADLINE_MS = 20_000;

// A connected client; what it receives is in `messages`.
class Peer {
  static async connect(name, durable = false) {
    const peer = new Peer();
    peer.messages = [];
    peer.client = mqtt.connect(url, {
      clientId: name,
      clean: !durable,
      protocolVersion: PROTOCOL,
      protocolId: PROTOCOL === 3 ? "MQIsdp" : "MQTT",
      reconnectPeriod: 0,
      properties: durable && PROTOCOL === 5 ? { sessionExpiryInterval: 60 } : undefined,
    });
    peer.client.on("message", (topic, payload, packet) => {
      peer.messages.push(packet);
      peer.wake?.();
    });
    peer.connack = await new Promise((resolve, reject) => {
      peer.client.once("connect", resolve).once("error", reject).once("close", () => reject(new Error("closed")));
    });
    return peer;
  }

  async subscribe(filter, qos) {
    const granted = await this.client.subscribeAsync(filter, { qos });
    assert.deepStrictEqual(granted.map((one) => one.qos), [qos]);
  }

  publish(topic, payload, qos, retain = false) {
    const properties = PROTOCOL === 5 ? { userProperties: { name: "value" } } : undefined;
    return this.client.publishAsync(topic, payload, { qos, retain, properties });
  }

  async expect(payload, qos, retain = false) {
    while (this.messages.length === 0) {
      await new Promise((resolve) => (this.wake = resolve));
    }
    const packet = this.messages.shift();
    assert.deepStrictEqual([packet.payload.toString(), packet.qos, packet.retain], [payload, qos, retain]);
    if (PROTOCOL === 5) {
      assert.deepStrictEqual({ ...packet.properties.userProperties }, { name: "value" });
    }
  }

  close() {
    return this.client.endAsync();
  }
}

async function main() {
  const live = await Peer.connect(NAME);
  await live.subscribe(`${NAME}/#`, 2);
  for (const qos of [0, 1, 2]) {
    await live.publish(`${NAME}/x`, `live ${qos}`, qos);
    await live.expect(`live ${qos}`, qos);
  }
  await live.publish(`${NAME}/x`, "y".repeat(300_000), 1);
  await live.expect("y".repeat(300_000), 1);

  await live.publish(`${NAME}/retained`, "kept", 1, true);
  await live.expect("kept", 1);
  const late = await Peer.connect(`${NAME}-late`);
  await late.subscribe(`${NAME}/retained`, 1);
  await late.expect("kept", 1, true);
  await late.publish(`${NAME}/retained`, "", 1, true);
  await live.expect("", 1);
  await late.close();

  let absent = await Peer.connect(`${NAME}-absent`, true);
  await absent.subscribe(`${NAME}/absent`, 2);
  await absent.close();
  for (const qos of [1, 2]) {
    await live.publish(`${NAME}/absent`, `queued ${qos}`, qos);
    await live.expect(`queued ${qos}`, qos);
  }
  absent = await Peer.connect(`${NAME}-absent`, true);
  assert.ok(absent.connack.sessionPresent || PROTOCOL === 3);
  for (const qos of [1, 2]) {
    await absent.expect(`queued ${qos}`, qos);
  }
  await absent.close();
  await live.close();
}

const deadline = setTimeout(() => {
  console.error(`not done in ${DEADLINE_MS} ms`);
  process.exit(1);
}, DEADLINE_MS);
main().then(
  () => clearTimeout(deadline),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
