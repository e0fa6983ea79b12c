// A service without atoll inside: any HTTP server that takes its address from its command line.
import { createServer } from "node:http";

const [host, port] = process.argv.slice(2);
const server = createServer((request, response) => {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ path: request.url, pid: process.pid, subject: request.headers["x-atoll-subject"] ?? null }));
});
server.listen(Number(port), host);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
