import assert from "node:assert/strict";
import { test } from "node:test";

import { ServerClock } from "../../../../server/app/static/clock.js";
import { Feed } from "../../../../server/app/static/feed.js";
import { FakeWorld, seeded, settled, transcript } from "./world.js";

class Recorder {
  constructor() {
    this.connections = [];
    this.subscribed = [];
    this.publications = [];
    this.errors = [];
    this.agents = [];
  }

  onConnection = (connection) => this.connections.push(connection);
  onAuthenticated = (agentId) => this.agents.push(agentId);
  onSubscribed = (ch, reply) => this.subscribed.push([ch, reply]);
  onPublication = (publication, receivedMs) => this.publications.push([publication.off, receivedMs]);
  onError = (error) => this.errors.push(error);

  get status() {
    return this.connections.at(-1).status;
  }
}

function makeFeed({ getTicket = async () => ({ ticket: "T" }) } = {}) {
  const world = new FakeWorld();
  const recorder = new Recorder();
  const clock = new ServerClock();
  return { world, recorder, clock, feed: new Feed("ws://host/v1/feed", getTicket, clock, recorder, world) };
}

async function open(parts) {
  parts.feed.connect();
  await settled();
  authenticate(parts.world.socket);
}

function authenticate(socket) {
  socket.onopen();
  socket.receive({ type: "authenticated", tenant_id: "t", agent_id: "a", server_ms: 1 });
}

const subs = (socket) => socket.sent.filter((message) => message.type === "sub");

test("the ticket is the first frame, and nothing is subscribed before the answer", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  parts.feed.connect();
  await settled();
  parts.world.socket.onopen();
  assert.deepEqual(parts.world.socket.sent, [{ type: "auth", ticket: "T" }]);
  assert.deepEqual(parts.world.socket.protocols, ["cueline.v1+json"]);
  parts.world.socket.receive({ type: "authenticated", tenant_id: "t", agent_id: "a", server_ms: 1 });
  assert.deepEqual(subs(parts.world.socket), [{ type: "sub", ch: "call:c1" }]);
  assert.deepEqual(parts.recorder.agents, ["a"]);
});

test("a channel subscribed by the handler is asked for once", async () => {
  const parts = makeFeed();
  parts.recorder.onAuthenticated = () => parts.feed.subscribe("agent:a");
  await open(parts);
  assert.equal(subs(parts.world.socket).length, 1);
});

test("after a loss it resumes from the last publication that was handled", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e1", off: 3, snapshot: [], tail: [] });
  parts.world.socket.receive(transcript("u", {}, { off: 4 }));
  parts.world.socket.receive(transcript("u", {}, { off: 7 }));
  parts.world.socket.receive(transcript("u", {}, { off: 6 }));
  assert.deepEqual(parts.recorder.publications.map(([off]) => off), [4, 7], "a skipped interim is no loss, a late repeat is ignored");
  parts.world.socket.onclose({ code: 3008, reason: "slow" });
  assert.equal(parts.recorder.status, "waiting");
  await parts.world.advance(1000);
  authenticate(parts.world.socket);
  assert.deepEqual(subs(parts.world.socket), [{ type: "sub", ch: "call:c1", ep: "e1", off: 7 }]);
});

test("a handler that fails leaves the position where it was", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e1", off: 3, snapshot: [], tail: [] });
  parts.recorder.onPublication = () => {
    throw new Error("the view broke");
  };
  const { socket } = parts.world;
  assert.throws(() => socket.onmessage({ data: JSON.stringify(transcript("u", {}, { off: 4 })) }));
  socket.onclose({ code: 1006, reason: "" });
  await parts.world.advance(1000);
  authenticate(parts.world.socket);
  assert.equal(subs(parts.world.socket)[0].off, 3);
});

test("a lost state is asked for anew, without a position", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e1", off: 3, snapshot: [], tail: [] });
  parts.world.socket.onclose({ code: 3014, reason: "" });
  await parts.world.advance(1000);
  authenticate(parts.world.socket);
  assert.deepEqual(subs(parts.world.socket), [{ type: "sub", ch: "call:c1" }]);
});

test("publications of another epoch and before the answer are ignored", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.world.socket.receive(transcript("u", {}, { off: 1 }));
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e1", off: 1, snapshot: [], tail: [] });
  parts.world.socket.receive(transcript("u", {}, { off: 2, ep: "e0" }));
  assert.deepEqual(parts.recorder.publications, []);
});

test("what did not fit into the answer is old news, what follows is live", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e1", off: 1, snapshot: [], tail: [], num_more: 1 });
  parts.world.socket.receive(transcript("u", {}, { off: 2 }));
  parts.world.socket.receive(transcript("u", {}, { off: 3 }));
  assert.deepEqual(parts.recorder.publications.map(([, receivedMs]) => receivedMs === null), [true, false]);
});

test("terminal codes end it, and only a request of the reader brings it back", async () => {
  for (const code of [3500, 3503, 4500, 4999]) {
    const parts = makeFeed();
    await open(parts);
    parts.world.socket.onclose({ code, reason: "no" });
    assert.equal(parts.recorder.status, "closed");
    await parts.world.advance(60_000);
    assert.equal(parts.world.sockets.length, 1);
    parts.feed.connect();
    await settled();
    assert.equal(parts.world.sockets.length, 2);
  }
});

test("without a sign-in it stops and asks for one", async () => {
  const parts = makeFeed({ getTicket: () => Promise.reject(Object.assign(new Error("no"), { status: 401 })) });
  parts.feed.connect();
  await settled();
  assert.deepEqual([parts.recorder.status, parts.recorder.connections.at(-1).reason], ["closed", "sign_in"]);
});

test("without an answer to the ticket request it tries again", async () => {
  let numCalls = 0;
  const getTicket = async () => {
    numCalls += 1;
    if (numCalls < 3) throw Object.assign(new Error("away"), { status: 0 });
    return { ticket: "T" };
  };
  const parts = makeFeed({ getTicket });
  parts.feed.connect();
  await settled();
  await parts.world.advance(1000);
  assert.equal(numCalls, 2);
  await parts.world.advance(10_000);
  assert.equal(parts.world.sockets.length, 1);
});

test("a half-open connection is noticed by its missing pong", async () => {
  const parts = makeFeed();
  await open(parts);
  await parts.world.advance(8_100);
  assert.equal(parts.recorder.status, "waiting");
  assert.equal(parts.world.sockets[0].isClosed, true);
});

test("a server that never authenticates is given up", async () => {
  const parts = makeFeed();
  parts.feed.connect();
  await settled();
  parts.world.socket.onopen();
  await parts.world.advance(10_000);
  assert.equal(parts.recorder.status, "waiting");
});

test("pongs teach the clock, and the fastest one counts", async () => {
  const parts = makeFeed();
  await open(parts);
  // The first pings leave 0, 300 and 700 ms after the answer.
  for (const [untilNextMs, delayMs, offsetMs] of [[300, 40, 5_000], [400, 10, 5_020], [500, 90, 5_300]]) {
    await parts.world.advance(0);
    const sentMs = parts.world.now;
    assert.equal(parts.world.socket.sent.at(-1).type, "ping");
    await parts.world.advance(delayMs);
    parts.world.socket.receive({ type: "pong", server_ms: sentMs + delayMs / 2 + offsetMs });
    await parts.world.advance(untilNextMs - delayMs);
  }
  assert.equal(parts.clock.offsetMs, 5_020);
});

test("a server's ping is answered", async () => {
  const parts = makeFeed();
  await open(parts);
  parts.world.socket.receive({ type: "ping", server_ms: 5 });
  assert.ok(parts.world.socket.sent.some((message) => message.type === "pong"));
});

test("the answer to an own unsub does not end a newer subscription, the server's word does", async () => {
  const parts = makeFeed();
  parts.feed.subscribe("call:c1");
  await open(parts);
  parts.feed.unsubscribe("call:c1");
  parts.feed.subscribe("call:c1");
  parts.world.socket.receive({ type: "unsubscribed", ch: "call:c1" });
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: false, ep: "e", off: 0, snapshot: [], tail: [] });
  assert.equal(parts.recorder.subscribed.length, 1);
  parts.world.socket.receive({ type: "unsubscribed", ch: "call:c1", reason: "the call is not yours any more" });
  assert.equal(parts.recorder.errors.length, 1);
});

test("a reader cut two hundred times has the whole log, in order", async () => {
  const random = seeded(7);
  const parts = makeFeed();
  const seen = [];
  parts.recorder.onSubscribed = (_, { tail }) => seen.push(...tail.map(({ off }) => off));
  parts.recorder.onPublication = ({ off }) => seen.push(off);
  parts.feed.subscribe("call:c1");
  const log = [];
  parts.feed.connect();
  await settled();
  for (let cut = 0; cut < 200; cut += 1) {
    authenticate(parts.world.socket);
    const [sub] = subs(parts.world.socket);
    const after = sub.off ?? 0;
    const tail = log.slice(after);
    // Sometimes the answer itself is lost with the connection.
    if (random() < 0.8) {
      parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: after > 0, ep: "e1", off: log.length, tail });
    }
    for (let count = Math.floor(random() * 4); count > 0; count -= 1) {
      log.push(transcript("u", {}, { off: log.length + 1 }));
      if (random() < 0.7) parts.world.socket.receive(log.at(-1));
      else break;
    }
    const numSockets = parts.world.sockets.length;
    parts.world.socket.onclose({ code: 1006, reason: "" });
    while (log.length > 0 && random() < 0.3) log.push(transcript("u", {}, { off: log.length + 1 }));
    while (parts.world.sockets.length === numSockets) await parts.world.advance(500);
  }
  authenticate(parts.world.socket);
  const after = subs(parts.world.socket)[0].off ?? 0;
  parts.world.socket.receive({ type: "subscribed", ch: "call:c1", recovered: true, ep: "e1", off: log.length, tail: log.slice(after) });
  assert.deepEqual(seen, log.map(({ off }) => off));
});
