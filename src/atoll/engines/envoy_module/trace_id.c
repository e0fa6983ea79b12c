// Which trace a request is of, as its log line says.

#include "core.h"

enum { TRACE = 3, PARENT = 36, FLAGS = 53, WHOLE = 55, PARENT_SIZE = 16, PAIR = 2 };

static bool is_hex(char byte) { return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f'); }

static bool all_hex(const char *at, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!is_hex(at[i])) return false;
  return true;
}

static bool all(const char *at, size_t size, char byte) {
  for (size_t i = 0; i < size; i++)
    if (at[i] != byte) return false;
  return true;
}

static bool is_traceparent(Bytes value) {
  const char *at = value.at;
  return value.size >= WHOLE && all_hex(at, PAIR) && at[TRACE - 1] == '-' && all_hex(at + TRACE, TRACE_ID_SIZE) &&
         at[PARENT - 1] == '-' && all_hex(at + PARENT, PARENT_SIZE) && at[FLAGS - 1] == '-' && all_hex(at + FLAGS, PAIR);
}

// What may stand behind it, if anything (https://www.w3.org/TR/trace-context/#versioning-of-traceparent), and what none is.
static bool is_known(Bytes value) {
  return !all(value.at, PAIR, 'f') && !all(value.at + TRACE, TRACE_ID_SIZE, '0') &&
         !all(value.at + PARENT, PARENT_SIZE, '0') && (value.size == WHOLE || value.at[WHOLE] == '-');
}

Bytes trace_id(Bytes value) {
  if (!is_traceparent(value) || !is_known(value)) return (Bytes){0, 0};
  return (Bytes){value.at + TRACE, TRACE_ID_SIZE};
}

size_t write_plain_id(Bytes request_id, char into[REQUEST_ID_MOST]) {
  size_t size = 0;
  for (size_t i = 0; i < request_id.size && size < REQUEST_ID_MOST; i++)
    if (request_id.at[i] != '-') into[size++] = request_id.at[i];
  return size;
}
