// HTTP/1.1 as RFC 9112 has it, in front of Envoy's own reader, which is more generous.
//
// Refused: a line of a head, of a trailer or of a chunk's size that ends in LF without CR or has a CR in it (§2.2), a
// header line that begins with white space (§5.2), and a chunk that ends in anything but CRLF (§7.1). What is refused is
// replaced by nonsense, which Envoy answers with 400 and an end of the connection, so that the answer and the log line are
// made where all others are. Behind the nonsense nothing is read: no more bytes of this connection get there.
// Everything else is left to Envoy: what is wrong there, it refuses itself.
//
// It must know where heads begin, so it counts bodies: Content-Length and chunks. HTTP/2 and accepted upgrades are not
// looked at. Answers are not looked at either: whether an upgrade was accepted is told by the client's next bytes. A WebSocket
// client masks its frames (RFC 6455 §5.1), so the second of these bytes is 128 or more, and in a request it is part of a
// method, or a space. Of a client that sends such bytes behind a refused upgrade Envoy reads no more: no method that it takes
// has them. Requests may be pipelined, and then Envoy leaves in its buffer what it has not begun yet, always from the
// beginning of a request; it comes here again with that and the next bytes, and they are read again from there. Whether it
// left something can't be told when whole requests were followed by a part of one. There the last whole one is given
// `connection: close`, and what follows is cut off: its client has to ask again on another connection, as RFC 9112 §9.3.2
// prepares it for. So it is with what is more than PIPELINED bytes behind the first one: each of them is read again for
// each request before it.

#include "core.h"

#include <string.h>

// Not read any more: UNREAD is not HTTP/1.1, what is left of an ENDING connection ends in nonsense that Envoy has not come
// to yet, and of an ENDED one nothing else than nonsense is left: also when Envoy was busy with the request before and is
// shown it again.
enum State { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNREAD, ENDING, ENDED };
enum Header { OTHER, LENGTH, CODING, UPGRADE, HEADERS };

static const Bytes NAMES[HEADERS] = {{"", 0}, {"content-length", 14}, {"transfer-encoding", 17}, {"upgrade", 7}};
static const char PREFACE[] = "PRI * HTTP/2";  // as much as Envoy looks at; nothing else that begins so does it take
enum { PREFACE_SIZE = sizeof PREFACE - 1, CRLF_SIZE = 2, PIPELINED = 16384 };
static const uint64_t LENGTH_MOST = 1ull << 58;

// Where a line can't have them, and one that ends, because Envoy looks at a line when it is there. The second NUL is for a
// chunk's extension, in which Envoy takes all but a CR without LF.
const Bytes NONSENSE = {"\0\r\0\r\n\r\n", 7};
const Bytes CLOSE = {"connection: close\r\n", 19};

static void begin_line(Http1 *c) { c->before = c->header = c->named = c->name_size = 0, c->column = 0; }

static void begin(Http1 *c, enum State state) {
  begin_line(c);
  c->state = state;
  c->line = state == TRAILER;
  if (state == HEAD) c->length = 0, c->chunked = 0;
  if (state == CHUNK_SIZE) c->length = 0;
}

static uint8_t which(const Http1 *c) {
  for (uint8_t header = LENGTH; header < HEADERS; header++)
    if (c->name_size == NAMES[header].size && !memcmp(c->name, NAMES[header].at, c->name_size)) return header;
  return OTHER;
}

static void read_header(Http1 *c, uint8_t byte) {
  if (!c->named) {
    if (byte == ':') {
      c->named = 1, c->header = which(c);
      if (c->header == CODING) c->chunked = 1;
      if (c->header == UPGRADE && c->state == HEAD) c->upgrade = 1;
    } else if (c->name_size < NAME_MOST) {
      c->name[c->name_size++] = byte >= 'A' && byte <= 'Z' ? byte + 32 : byte;
    }
  } else if (c->header == LENGTH && byte >= '0' && byte <= '9' && c->length < LENGTH_MOST) {
    c->length = c->length * 10 + (byte - '0');
  }
}

static void read_size(Http1 *c, uint8_t byte) {
  uint8_t low = byte | 32;
  int digit = byte >= '0' && byte <= '9' ? byte - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
  if (digit < 0) c->named = 1;  // white space or an extension
  if (!c->named && c->length < LENGTH_MOST) c->length = c->length * 16 + (uint64_t)digit;
}

// Whether a request ends here.
static bool end_line(Http1 *c) {
  if (c->state == CHUNK_SIZE) {
    c->left = c->length;
    if (c->length) c->state = CHUNK;
    else begin(c, TRAILER);
    return false;
  }
  if (c->state == CHUNK_END) return begin(c, CHUNK_SIZE), false;
  if (c->column) {
    c->line++;
    begin_line(c);
    return false;
  }
  if (c->state == HEAD && c->line == 0) {  // an empty line before a request is passed over (§2.2)
    begin_line(c);
    return false;
  }
  if (c->state == HEAD && c->chunked) return begin(c, CHUNK_SIZE), false;
  if (c->state == HEAD && c->length) return c->left = c->length, c->state = BODY, false;
  return begin(c, HEAD), true;
}

enum Step { GOES_ON, ENDS, REFUSED };

static enum Step step(Http1 *c, uint8_t byte) {
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

// What was found in all there is. Places are counted from the beginning of the first piece.
typedef struct {
  size_t at;         // how far it was read
  size_t until;      // and how far it is to be
  size_t request;    // where the one begins that is read now: behind all whole ones
  size_t head_end;   // of it; 0 when that is not in here
  size_t last_head;  // where the head of the last whole one ends, in the same way
} Input;

static void end_request(Input *in) {
  if (!in->request && in->until - in->at > PIPELINED) in->until = in->at + PIPELINED;
  in->request = in->at, in->last_head = in->head_end, in->head_end = 0;
}

// How many of these bytes are of a body.
static size_t skip_body(Http1 *c, Input *in, size_t there) {
  bool body = c->state == BODY;
  size_t more = c->left < there ? (size_t)c->left : there;
  c->left -= more, in->at += more;
  if (c->left) return more;
  begin(c, body ? HEAD : CHUNK_END);
  if (body) end_request(in);
  return more;
}

static enum Step read_byte(Http1 *c, Input *in, uint8_t byte) {
  uint8_t state = c->state;
  if (c->preface < PREFACE_SIZE && byte != (uint8_t)PREFACE[c->preface++]) c->preface = PREFACE_SIZE + 1;
  if (c->preface == PREFACE_SIZE) return c->state = UNREAD, GOES_ON;
  in->at++;
  enum Step done = step(c, byte);
  if (done == REFUSED || c->state == UNREAD) return done;
  if (state == HEAD && (c->state != HEAD || done == ENDS)) in->head_end = in->at;
  if (done == ENDS) end_request(in);
  return GOES_ON;
}

static enum Step read_piece(Http1 *c, Input *in, Bytes piece) {
  size_t here = 0;
  while (here < piece.size && in->at < in->until && c->state != UNREAD) {
    if (c->state == BODY || c->state == CHUNK) {
      size_t there = piece.size - here, most = in->until - in->at;
      here += skip_body(c, in, there < most ? there : most);
    } else if (read_byte(c, in, (uint8_t)piece.at[here++]) == REFUSED) {
      return REFUSED;
    }
  }
  return GOES_ON;
}

// Whether what was read ends in the middle of a request behind whole ones, or was not read to its end.
static bool ends_within(const Http1 *c, const Input *in, size_t size) {
  bool between = c->state == HEAD && c->line == 0 && c->column == 0 && c->before == 0;
  return in->request && (in->until < size || !between);
}

static Change end_at(Http1 *c, const Input *in, Change change) {
  c->state = in->request ? ENDING : ENDED;
  return change;
}

// The whole requests are the last ones. The nonsense is not met if its answer ends the connection. When the last head was
// passed on before, or all of it but the LF, there is nothing left to say `close` in.
static Change close_behind(Http1 *c, const Input *in) {
  bool closes = in->last_head >= CRLF_SIZE;
  return end_at(c, in, (Change){true, closes, in->request, closes ? in->last_head - CRLF_SIZE : 0});
}

void http1_end(Http1 *c) { c->state = ENDED; }

Look http1_look(Http1 *c, size_t size) {
  if (size == 0 || c->state == UNREAD || c->state == ENDING) return PASSES;
  if (c->state == ENDED) return IS_REPLACED;
  if ((c->state == BODY || c->state == CHUNK) && c->left > size) return c->left -= size, PASSES;
  return IS_READ;
}

Change http1_read(Http1 *c, const Bytes *pieces, size_t count) {
  size_t size = 0;
  for (size_t i = 0; i < count; i++) size += pieces[i].size;
  Input in = {.until = size};
  bool in_head = c->state == HEAD;
  enum Step done = GOES_ON;
  for (size_t i = 0; i < count && done == GOES_ON; i++) done = read_piece(c, &in, pieces[i]);
  // Of one that Envoy has begun to send on, it gets what is right: it may be in the middle of a chunk.
  if (done == REFUSED) return end_at(c, &in, (Change){true, false, in.request || in_head ? in.request : in.at - 1, 0});
  return c->state != UNREAD && ends_within(c, &in, size) ? close_behind(c, &in) : (Change){0};
}

size_t http1_changed_size(const Change *change) {
  return change->kept + (change->closes ? CLOSE.size : 0) + NONSENSE.size;
}

static char *put(char *into, Bytes what) {
  if (what.size) memcpy(into, what.at, what.size);
  return into + what.size;
}

// What there is between two places.
static char *put_between(char *into, const Bytes *pieces, size_t count, const size_t between[2]) {
  size_t begins = 0;
  for (size_t i = 0; i < count; begins += pieces[i++].size) {
    size_t from = between[0] > begins ? between[0] - begins : 0;
    size_t to = between[1] > begins ? between[1] - begins : 0;
    if (to > pieces[i].size) to = pieces[i].size;
    if (from < to) into = put(into, (Bytes){pieces[i].at + from, to - from});
  }
  return into;
}

void http1_write_changed(const Change *change, const Bytes *pieces, size_t count, char *into) {
  into = put_between(into, pieces, count, (size_t[2]){0, change->close});
  if (change->closes) into = put(into, CLOSE);
  into = put_between(into, pieces, count, (size_t[2]){change->close, change->kept});
  put(into, NONSENSE);
}
