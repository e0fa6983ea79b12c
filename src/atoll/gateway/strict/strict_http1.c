// A network filter that reads HTTP/1.1 as RFC 9112 has it, in front of Envoy's own reader, which is more generous.
//
// Refused: a line of a head, of a trailer or of a chunk's size that ends in LF without CR or has a CR in it (§2.2), a
// header line that begins with white space (§5.2), and a chunk that ends in anything but CRLF (§7.1). What is refused is
// replaced by nonsense, which Envoy answers with 400 and an end of the connection, so that the answer and the log line are
// made where all others are. Behind the nonsense nothing is read: no more bytes of this connection get there.
// Everything else is left to Envoy: what is wrong there, it refuses itself.
//
// It must know where heads begin, so it counts bodies: Content-Length and chunks. HTTP/2 and accepted upgrades are not
// looked at. Answers are not looked at either, because each look costs: whether an upgrade was accepted is told by the
// client's next bytes. A WebSocket client masks its frames (RFC 6455 §5.1), so the second of these bytes is 128 or more, and
// in a request it is part of a method, or a space. Of a client that sends such bytes behind a refused upgrade Envoy reads no
// more: no method that it takes has them. Requests may be pipelined, and then Envoy leaves in its buffer what it has not begun yet, always from the
// beginning of a request; it comes here again with that and the next bytes, and they are read again from there. Whether it
// left something can't be told when whole requests were followed by a part of one. There the last whole one is given
// `connection: close`, and what follows is cut off: its client has to ask again on another connection, as RFC 9112 §9.3.2
// prepares it for. So it is with what is more than PIPELINED bytes behind the first one: each of them is read again for
// each request before it.
//
// Interface: proxy-wasm ABI 0.2.1. One instance per worker thread, so nothing here is ever run by two at once.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

enum { CLIENT_BYTES = 2, CONTINUE = 0, PAUSE = 1, OK = 0 };

IMPORT(proxy_get_buffer_bytes) u32 get_bytes(u32 kind, u32 start, u32 size, u8 **found, u32 *found_size);
IMPORT(proxy_set_buffer_bytes) u32 set_bytes(u32 kind, u32 start, u32 size, const u8 *with, u32 with_size);

// Not read any more: UNREAD is not HTTP/1.1, what is left of an ENDING connection ends in nonsense that Envoy has not come
// to yet, and of an ENDED one nothing else than nonsense is left: also when Envoy was busy with the request before and is
// shown it again.
enum State { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNREAD, ENDING, ENDED };
enum Header { OTHER, LENGTH, CODING, UPGRADE };

static const char *const NAMES[] = {"", "content-length", "transfer-encoding", "upgrade"};
static const char PREFACE[] = "PRI * HTTP/2";  // as much as Envoy looks at; nothing else that begins so does it take
enum { PREFACE_SIZE = sizeof PREFACE - 1, NAME_MOST = 18, PIPELINED = 16384 };

typedef struct {
  u32 id;
  u16 next;      // in its chain, or in the list of free ones
  u8 state;
  u8 before;     // the last byte of this line, 0 at its beginning
  u8 header;     // which one this line is, once its colon was read
  u8 named;      // the colon was read
  u8 name_size;
  u8 chunked;
  u8 upgrade;    // the request before asked for it
  u8 preface;    // how much of HTTP/2's preface this connection began with
  u8 name[NAME_MOST];
  u32 line;      // of this head: 0 is the request line
  u32 column;
  u64 length;    // Content-Length, or a chunk's size
  u64 left;      // bytes of a body that are still to come
} Connection;

// More than the connections that the gateway takes at a time.
enum { MOST = 32768, CHAINS = 4096 };
static Connection connections[MOST];
static u16 chains[CHAINS], free_ones;  // an index + 1; 0 ends a chain
static u32 used = 1;

static Connection *find(u32 id) {
  for (u32 at = chains[id % CHAINS]; at; at = connections[at].next)
    if (connections[at].id == id) return &connections[at];
  return 0;
}

static void remember(u32 id) {
  u32 at = free_ones;
  if (at) free_ones = connections[at].next;
  else if (used < MOST) at = used++;
  else return;
  Connection *c = &connections[at];
  for (u32 i = 0; i < sizeof *c; i++) ((u8 *)c)[i] = 0;
  c->id = id;
  c->next = chains[id % CHAINS];
  chains[id % CHAINS] = (u16)at;
}

static void forget(u32 id) {
  for (u16 *link = &chains[id % CHAINS]; *link; link = &connections[*link].next) {
    u16 at = *link;
    if (connections[at].id != id) continue;
    *link = connections[at].next;
    connections[at].next = free_ones;
    free_ones = at;
    return;
  }
}

static void begin_line(Connection *c) { c->before = c->header = c->named = c->name_size = 0, c->column = 0; }

static void begin(Connection *c, u8 state) {
  begin_line(c);
  c->state = state;
  c->line = state == TRAILER;
  if (state == HEAD) c->length = 0, c->chunked = 0;
  if (state == CHUNK_SIZE) c->length = 0;
}

static u8 which(const Connection *c) {
  for (u8 header = LENGTH; header <= UPGRADE; header++) {
    const char *name = NAMES[header];
    u32 at = 0;
    while (at < c->name_size && name[at] && name[at] == (char)c->name[at]) at++;
    if (at == c->name_size && !name[at]) return header;
  }
  return OTHER;
}

static void read_header(Connection *c, u8 byte) {
  if (!c->named) {
    if (byte == ':') {
      c->named = 1, c->header = which(c);
      if (c->header == CODING) c->chunked = 1;
      if (c->header == UPGRADE && c->state == HEAD) c->upgrade = 1;
    } else if (c->name_size < NAME_MOST) {
      c->name[c->name_size++] = byte >= 'A' && byte <= 'Z' ? byte + 32 : byte;
    }
  } else if (c->header == LENGTH && byte >= '0' && byte <= '9' && c->length < 1ull << 58) {
    c->length = c->length * 10 + (byte - '0');
  }
}

static void read_size(Connection *c, u8 byte) {
  u8 low = byte | 32;
  int digit = byte >= '0' && byte <= '9' ? byte - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
  if (digit < 0) c->named = 1;  // white space or an extension
  if (!c->named && c->length < 1ull << 58) c->length = c->length * 16 + (u64)digit;
}

// Whether a request ends here.
static int end_line(Connection *c) {
  if (c->state == CHUNK_SIZE) {
    c->left = c->length;
    if (c->length) c->state = CHUNK;
    else begin(c, TRAILER);
    return 0;
  }
  if (c->state == CHUNK_END) return begin(c, CHUNK_SIZE), 0;
  if (c->column) {
    c->line++;
    begin_line(c);
    return 0;
  }
  if (c->state == HEAD && c->line == 0) {  // an empty line before a request is passed over (§2.2)
    begin_line(c);
    return 0;
  }
  if (c->state == HEAD && c->chunked) return begin(c, CHUNK_SIZE), 0;
  if (c->state == HEAD && c->length) return c->left = c->length, c->state = BODY, 0;
  return begin(c, HEAD), 1;
}

enum Step { GOES_ON, ENDS, REFUSED };

static enum Step step(Connection *c, u8 byte) {
  if (byte == '\n') return c->before != '\r' ? REFUSED : end_line(c) ? ENDS : GOES_ON;
  if (c->before == '\r') return REFUSED;
  c->before = byte;
  if (byte == '\r') return GOES_ON;
  if (c->state == CHUNK_END) return REFUSED;
  if (c->state == CHUNK_SIZE) read_size(c, byte);
  else if (c->line == 0) {
    if (c->column == 1) {
      if (c->upgrade && byte & 128) return c->state = UNREAD, GOES_ON;
      c->upgrade = 0;
    }
  } else {
    if (c->column == 0 && (byte == ' ' || byte == '\t')) return REFUSED;
    read_header(c, byte);
  }
  c->column++;
  return GOES_ON;
}

// Where a line can't have them, and one that ends, because Envoy looks at a line when it is there. The second NUL is for a
// chunk's extension, in which Envoy takes all but a CR without LF.
static const u8 NONSENSE[] = "\0\r\0\r\n\r\n";
static const u8 CLOSE[] = "connection: close\r\n";
enum { NONSENSE_SIZE = sizeof NONSENSE - 1, CLOSE_SIZE = sizeof CLOSE - 1 };

// The whole of what there is, given by Envoy through proxy_on_memory_allocate, and good until the next call. It has room for
// what is added to it.
static u8 *scratch;
static u32 scratch_size;
extern u8 __heap_base;

EXPORT(proxy_on_memory_allocate) void *allocate(u32 size) {
  if (!scratch) scratch = &__heap_base, scratch_size = __builtin_wasm_memory_size(0) * 65536 - (u32)scratch;
  size += NONSENSE_SIZE + CLOSE_SIZE;
  if (size > scratch_size) {
    u32 pages = (size - scratch_size + 65535) / 65536;
    if (__builtin_wasm_memory_grow(0, pages) == (u32)-1) return 0;
    scratch_size += pages * 65536;
  }
  return scratch;
}

// All of what Envoy has: its host call takes nothing else in exchange. It gets none of it when that fails.
static u32 replace(u32 size, const u8 *with, u32 with_size) {
  return set_bytes(CLIENT_BYTES, 0, size, with, with_size) == OK ? CONTINUE : PAUSE;
}

static u32 add(u8 *bytes, u32 at, const u8 *more, u32 more_size) {
  for (u32 i = 0; i < more_size; i++) bytes[at + i] = more[i];
  return at + more_size;
}

typedef struct {
  u8 *bytes;
  u32 size;
  u32 request;    // where the one begins that is read now: behind all whole ones
  u32 head_end;   // of it; 0 when that is not in here
  u32 last_head;  // where the head of the last whole one ends, in the same way
} Input;

// Nonsense instead of everything from there on.
static u32 end(Connection *c, Input *in, u32 from) {
  c->state = in->request ? ENDING : ENDED;
  return replace(in->size, in->bytes, add(in->bytes, from, NONSENSE, NONSENSE_SIZE));
}

// The whole requests are the last ones. The nonsense is not met if its answer ends the connection.
static u32 close_behind(Connection *c, Input *in) {
  if (!in->last_head) return end(c, in, in->request);
  u32 line = in->last_head - 2;
  for (u32 i = in->request; i-- > line;) in->bytes[i + CLOSE_SIZE] = in->bytes[i];
  add(in->bytes, line, CLOSE, CLOSE_SIZE);
  return end(c, in, in->request + CLOSE_SIZE);
}

// The state is the one after these bytes, if they are to be passed on; `at` how far it came.
static enum Step read(Connection *c, Input *in, u32 *at) {
  u32 until = in->size;
  while (*at < until) {
    u8 state = c->state;
    enum Step done = GOES_ON;
    if (state == BODY || state == CHUNK) {
      u32 more = c->left < until - *at ? (u32)c->left : until - *at;
      *at += more, c->left -= more;
      if (c->left) break;
      begin(c, state == BODY ? HEAD : CHUNK_END);
      if (state == BODY) done = ENDS;
    } else {
      if (c->preface < PREFACE_SIZE && in->bytes[*at] != (u8)PREFACE[c->preface++]) c->preface = PREFACE_SIZE + 1;
      if (c->preface == PREFACE_SIZE) return c->state = UNREAD, GOES_ON;
      done = step(c, in->bytes[(*at)++]);
      if (done == REFUSED) return REFUSED;
      if (c->state == UNREAD) return GOES_ON;
      if (state == HEAD && (c->state != HEAD || done == ENDS)) in->head_end = *at;
    }
    if (done != ENDS) continue;
    if (!in->request && until - *at > PIPELINED) until = *at + PIPELINED;
    in->request = *at, in->last_head = in->head_end, in->head_end = 0;
  }
  int between = c->state == HEAD && c->line == 0 && c->column == 0 && c->before == 0;
  return in->request && (until < in->size || !between) ? ENDS : GOES_ON;
}

EXPORT(proxy_on_downstream_data) u32 on_client_bytes(u32 id, u32 size, u32 ends) {
  (void)ends;
  Connection *c = find(id);
  Input in = {0, size, 0, 0, 0};
  u32 count = 0, at = 0;
  if (size == 0) return CONTINUE;
  if (!c) return replace(size, NONSENSE, NONSENSE_SIZE);
  u8 begun = c->state;
  if (begun == UNREAD || begun == ENDING) return CONTINUE;
  if (begun == ENDED) return replace(size, NONSENSE, NONSENSE_SIZE);
  if ((begun == BODY || begun == CHUNK) && c->left > size) return c->left -= size, CONTINUE;
  if (get_bytes(CLIENT_BYTES, 0, size, &in.bytes, &count) != OK || count != size) return c->state = ENDED, PAUSE;
  enum Step done = read(c, &in, &at);
  if (done == ENDS) return close_behind(c, &in);
  if (done == GOES_ON) return CONTINUE;
  // Of one that Envoy has begun to send on, it gets what is right: it may be in the middle of a chunk.
  return end(c, &in, in.request || begun == HEAD ? in.request : at - 1);
}

EXPORT(proxy_on_new_connection) u32 on_new_connection(u32 id) { return remember(id), CONTINUE; }
EXPORT(proxy_on_delete) void on_delete(u32 id) { forget(id); }
EXPORT(proxy_on_done) u32 on_done(u32 id) { return (void)id, 1; }
EXPORT(proxy_on_context_create) void on_context_create(u32 id, u32 parent) { (void)id, (void)parent; }
EXPORT(proxy_on_vm_start) u32 on_vm_start(u32 id, u32 size) { return (void)id, (void)size, 1; }
EXPORT(proxy_on_configure) u32 on_configure(u32 id, u32 size) { return (void)id, (void)size, 1; }
EXPORT(proxy_abi_version_0_2_1) void abi(void) {}
