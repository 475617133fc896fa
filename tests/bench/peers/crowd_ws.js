// The crowd's room on Node's `ws`, as its documentation suggests: see crowd_game.py.

import { WebSocketServer } from "ws";

const rate = Number(process.env.CROWD_RATE ?? 20);
const size = Number(process.env.CROWD_SIZE ?? 400);
const rooms = new Map();

function openRoom(path) {
  const room = { clients: new Set(), tick: 0, heard: 0 };
  room.timer = setInterval(() => {
    room.tick += 1;
    const head = `{"t":"state","tick":${room.tick},"heard":${room.heard},"pad":"`;
    const state = head.padEnd(size - 2, ".") + '"}';
    for (const client of room.clients) client.send(state);
  }, 1000 / rate);
  rooms.set(path, room);
  return room;
}

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 1024 });
server.on("connection", (client, request) => {
  const path = request.url.split("?")[0];
  const room = rooms.get(path) ?? openRoom(path);
  room.clients.add(client);
  client.on("message", (data) => {
    data.toString();
    room.heard += 1;
  });
  client.on("error", () => {});
  client.on("close", () => {
    room.clients.delete(client);
    if (room.clients.size === 0) {
      clearInterval(room.timer);
      rooms.delete(path);
    }
  });
});
