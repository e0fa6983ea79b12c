// What the module computes, over bytes and nothing else: no types of Envoy's, no allocation, no recursion, and no loop that
// its input does not bound. `module.c` is what Envoy calls.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Of whoever gives them. `at` may be null when there are none.
typedef struct {
  const char *at;
  size_t size;
} Bytes;

// ---- http1.c: what Envoy takes and HTTP/1.1 does not

enum { NAME_MOST = 18 };

// Where one connection is.
typedef struct {
  uint8_t state;
  uint8_t before;     // the last byte of this line, 0 at its beginning
  uint8_t header;     // which one this line is, once its colon was read
  uint8_t named;      // the colon was read
  uint8_t name_size;
  uint8_t chunked;
  uint8_t upgrade;    // the request before asked for it
  uint8_t preface;    // how much of HTTP/2's preface this connection began with
  uint8_t name[NAME_MOST];
  uint32_t line;      // of this head: 0 is the request line
  uint32_t column;
  uint64_t length;    // Content-Length, or a chunk's size
  uint64_t left;      // bytes of a body that are still to come
} Http1;

// What becomes of the bytes: the first `kept` stay, NONSENSE is put behind, and CLOSE in at `close` if it `closes`.
typedef struct {
  bool changed;
  bool closes;
  size_t kept;
  size_t close;
} Change;

// PASSES: as it is, and it need not be read.
typedef enum { PASSES, IS_READ, IS_REPLACED } Look;

extern const Bytes NONSENSE, CLOSE;

// What is 0 everywhere is a new connection. `size` is how many bytes there are, those included that Envoy left.
Look http1_look(Http1 *connection, size_t size);
// All there is, in the pieces that it lies in.
Change http1_read(Http1 *connection, const Bytes *pieces, size_t count);
// Whatever comes on this connection is nonsense.
void http1_end(Http1 *connection);
// What the change makes of the pieces.
size_t http1_changed_size(const Change *change);
void http1_write_changed(const Change *change, const Bytes *pieces, size_t count, char *into);

// ---- credentials.c: one credential for each request

bool is_bearer(Bytes authorization);

typedef enum { NONE_OFFERED, ONE_OFFERED, DOUBTFUL } Offered;

// A value of Sec-WebSocket-Protocol.
Offered offered(Bytes protocols);

// ---- rate_limit.c: requests and seconds, where the filters count in the thousandths that a request takes of a bucket

enum { BUCKETS_MOST = 4, DIGITS_MOST = 20 };

// A bucket of `size` that refills `a_second`; a request takes `cost`, and a client is told of `limit` requests.
typedef struct {
  uint64_t size, cost, a_second, limit;
} Bucket;

typedef struct {
  size_t count;
  Bucket buckets[BUCKETS_MOST];
} Buckets;

typedef struct {
  uint64_t limit, remaining, reset_s, wait_s;
} Told;

// From `size cost a_second limit`, and a comma between two buckets. False: not that.
bool read_buckets(Bytes text, Buckets *buckets);
// `size` and `left` as Envoy says them; the size is which bucket it is. False: none of these.
bool tell(const Buckets *buckets, Bytes size, Bytes left, Told *told);
// How many digits.
size_t write_number(uint64_t number, char into[DIGITS_MOST]);

// ---- trace_id.c

enum { TRACE_ID_SIZE = 32, REQUEST_ID_MOST = 64 };

// The trace that a traceparent tells of, which lies in it; of size 0 where services would not go on with it.
Bytes trace_id(Bytes traceparent);
// A request's id without its dashes; cut when it is longer.
size_t write_plain_id(Bytes request_id, char into[REQUEST_ID_MOST]);
