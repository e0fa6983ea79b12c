// What Envoy calls: one network filter, two HTTP filters and a word of the access log. Everything is computed elsewhere.
//
// A filter of a stream holds nothing, so nothing is made for it and nothing is left behind. A connection has its `Http1`, a
// route its buckets; both are freed when Envoy says so. What a name or a setting says that this module does not know is refused,
// and Envoy refuses the configuration with it.

#include "envoy.h"

#include <stdlib.h>
#include <string.h>

#define TEXT(literal) ((Bytes){literal, sizeof literal - 1})

static bool is(Bytes one, Bytes other) { return one.size == other.size && !memcmp(one.at, other.at, one.size); }

const char *HOOK(program_init)(void) { return ENVOY_ABI; }

// ---- the network filter `http1`

static const char http1_filter;
enum { PIECES = 64 };

Module HOOK(network_filter_config_new)(Envoy config, Bytes name, Bytes setting) {
  (void)config;
  return is(name, TEXT("http1")) && !setting.size ? &http1_filter : 0;
}

void HOOK(network_filter_config_destroy)(Module config) { (void)config; }

// Envoy closes a connection that gets none.
Module HOOK(network_filter_new)(Module config, Envoy filter) {
  (void)config, (void)filter;
  return calloc(1, sizeof(Http1));
}

void HOOK(network_filter_destroy)(Module filter) { free((void *)filter); }

int HOOK(network_filter_new_connection)(Envoy envoy, Module filter) {
  (void)envoy, (void)filter;
  return NETWORK_CONTINUE;
}

// Nothing that comes later can be read rightly.
static int give_up(Envoy envoy, Http1 *connection) {
  http1_end(connection);
  CALL(network_filter_close)(envoy, CLOSE_WITHOUT_FLUSH);
  return NETWORK_STOP;
}

// There is no call that cuts: all is taken out, and what stays is put in again.
static bool replace(Envoy envoy, const Change *change, const Bytes *pieces, size_t count) {
  size_t size = 0, changed = http1_changed_size(change);
  for (size_t i = 0; i < count; i++) size += pieces[i].size;
  char *with = malloc(changed);
  if (!with) return false;
  http1_write_changed(change, pieces, count, with);
  bool done = CALL(network_filter_drain_read_buffer)(envoy, size) &&
              CALL(network_filter_append_read_buffer)(envoy, (Bytes){with, changed});
  free(with);
  return done;
}

typedef struct {
  Bytes *pieces;
  size_t count;
} Buffer;

static int read_buffer(Envoy envoy, Http1 *connection, Look look, Buffer buffer) {
  if (!CALL(network_filter_get_read_buffer_chunks)(envoy, buffer.pieces)) return give_up(envoy, connection);
  Change change = look == IS_READ ? http1_read(connection, buffer.pieces, buffer.count) : (Change){.changed = true};
  if (!change.changed || replace(envoy, &change, buffer.pieces, buffer.count)) return NETWORK_CONTINUE;
  return give_up(envoy, connection);
}

int HOOK(network_filter_read)(Envoy envoy, Module filter, size_t size, bool ends) {
  (void)ends;
  Http1 *connection = (Http1 *)filter;
  Look look = http1_look(connection, size);
  if (look == PASSES) return NETWORK_CONTINUE;
  size_t count = CALL(network_filter_get_read_buffer_chunks_size)(envoy);
  Bytes some[PIECES];
  Buffer buffer = {count > PIECES ? calloc(count, sizeof *some) : some, count};
  if (!buffer.pieces) return give_up(envoy, connection);
  int done = read_buffer(envoy, connection, look, buffer);
  if (buffer.pieces != some) free(buffer.pieces);
  return done;
}

int HOOK(network_filter_write)(Envoy envoy, Module filter, size_t size, bool ends) {
  (void)envoy, (void)filter, (void)size, (void)ends;
  return NETWORK_CONTINUE;
}

void HOOK(network_filter_event)(Envoy envoy, Module filter, int event) { (void)envoy, (void)filter, (void)event; }

// ---- the HTTP filters `credentials` and `rate_limit_headers`

static const char credentials_filter, rate_limit_headers_filter;

Module HOOK(http_filter_config_new)(Envoy config, Bytes name, Bytes setting) {
  (void)config;
  if (setting.size) return 0;
  if (is(name, TEXT("credentials"))) return &credentials_filter;
  return is(name, TEXT("rate_limit_headers")) ? &rate_limit_headers_filter : 0;
}

void HOOK(http_filter_config_destroy)(Module config) { (void)config; }

Module HOOK(http_filter_per_route_config_new)(Bytes name, Bytes setting) {
  if (!is(name, TEXT("rate_limit_headers"))) return 0;
  Buckets *buckets = calloc(1, sizeof *buckets);
  if (buckets && read_buckets(setting, buckets)) return buckets;
  free(buckets);
  return 0;
}

void HOOK(http_filter_per_route_config_destroy)(Module buckets) { free((void *)buckets); }

Module HOOK(http_filter_new)(Module config, Envoy filter) {
  (void)filter;
  return config;
}

void HOOK(http_filter_destroy)(Module filter) { (void)filter; }

static int refuse(Envoy envoy, uint32_t status, Bytes details) {
  CALL(http_send_response)(envoy, status, 0, 0, (Bytes){0, 0}, details);
  return HTTP_STOP;
}

static bool get(Envoy envoy, int whose, Bytes name, Bytes *value, size_t index, size_t *count) {
  *value = (Bytes){0, 0}, *count = 0;
  CALL(http_get_header)(envoy, whose, name, value, index, count);
  return index < *count && (value->at || !value->size);
}

static Offered all_offered(Envoy envoy) {
  Offered found = NONE_OFFERED;
  size_t count = 1;
  for (size_t i = 0; i < count; i++) {
    Bytes value;
    if (!get(envoy, REQUEST, TEXT("sec-websocket-protocol"), &value, i, &count)) break;
    Offered one = offered(value);
    if (one == DOUBTFUL || (one != NONE_OFFERED && found != NONE_OFFERED)) return DOUBTFUL;
    if (one != NONE_OFFERED) found = one;
  }
  return found;
}

static int check_credentials(Envoy envoy) {
  Bytes value;
  size_t count;
  bool sent = get(envoy, REQUEST, TEXT("authorization"), &value, 0, &count);
  if (sent && (count > 1 || !is_bearer(value))) return refuse(envoy, 401, TEXT("not_bearer"));
  Offered also = all_offered(envoy);
  if (also == DOUBTFUL || (sent && also != NONE_OFFERED)) return refuse(envoy, 400, TEXT("two_credentials"));
  return HTTP_CONTINUE;
}

int HOOK(http_filter_request_headers)(Envoy envoy, Module filter, bool ends) {
  (void)ends;
  return filter == &credentials_filter ? check_credentials(envoy) : HTTP_CONTINUE;
}

static void set(Envoy envoy, Bytes name, uint64_t number) {
  char digits[DIGITS_MOST];
  CALL(http_set_header)(envoy, RESPONSE, name, (Bytes){digits, write_number(number, digits)});
}

static void drop(Envoy envoy, Bytes name) { CALL(http_set_header)(envoy, RESPONSE, name, (Bytes){0, 0}); }

// Envoy's own is 1, whatever the rate. One of a service stays.
static void mend_retry_after(Envoy envoy, uint64_t wait_s) {
  Bytes value;
  size_t count;
  if (!get(envoy, RESPONSE, TEXT("retry-after"), &value, 0, &count)) return;
  if (CALL(http_filter_get_attribute_string)(envoy, RESPONSE_CODE_DETAILS, &value) && is(value, TEXT("local_rate_limited")))
    set(envoy, TEXT("retry-after"), wait_s);
}

static void tell_of_limit(Envoy envoy, const Buckets *buckets) {
  Bytes size, left;
  size_t count;
  Told told;
  // Where no bucket was asked, as on a 401, there is nothing to tell, and nothing to take away.
  if (!get(envoy, RESPONSE, TEXT("x-ratelimit-limit"), &size, 0, &count)) return;
  if (get(envoy, RESPONSE, TEXT("x-ratelimit-remaining"), &left, 0, &count) && tell(buckets, size, left, &told)) {
    set(envoy, TEXT("ratelimit-limit"), told.limit);
    set(envoy, TEXT("ratelimit-remaining"), told.remaining);
    set(envoy, TEXT("ratelimit-reset"), told.reset_s);
    mend_retry_after(envoy, told.wait_s);
  }
  drop(envoy, TEXT("x-ratelimit-limit"));
  drop(envoy, TEXT("x-ratelimit-remaining"));
  drop(envoy, TEXT("x-ratelimit-reset"));
}

int HOOK(http_filter_response_headers)(Envoy envoy, Module filter, bool ends) {
  (void)ends;
  if (filter != &rate_limit_headers_filter) return HTTP_CONTINUE;
  const Buckets *buckets = CALL(get_most_specific_route_config)(envoy);
  if (buckets) tell_of_limit(envoy, buckets);
  return HTTP_CONTINUE;
}

int HOOK(http_filter_request_body)(Envoy envoy, Module filter, bool ends) {
  (void)envoy, (void)filter, (void)ends;
  return HTTP_CONTINUE;
}

int HOOK(http_filter_request_trailers)(Envoy envoy, Module filter) {
  (void)envoy, (void)filter;
  return HTTP_CONTINUE;
}

int HOOK(http_filter_response_body)(Envoy envoy, Module filter, bool ends) {
  (void)envoy, (void)filter, (void)ends;
  return HTTP_CONTINUE;
}

int HOOK(http_filter_response_trailers)(Envoy envoy, Module filter) {
  (void)envoy, (void)filter;
  return HTTP_CONTINUE;
}

void HOOK(http_filter_stream_complete)(Envoy envoy, Module filter) { (void)envoy, (void)filter; }

// Envoy wants these too. Nothing here ever asks for what they tell of, so they have no use for their parameters.
void HOOK(http_filter_http_callout_done)(void) {}
void HOOK(http_filter_http_stream_headers)(void) {}
void HOOK(http_filter_http_stream_data)(void) {}
void HOOK(http_filter_http_stream_trailers)(void) {}
void HOOK(http_filter_http_stream_complete)(void) {}
void HOOK(http_filter_http_stream_reset)(void) {}
void HOOK(http_filter_scheduled)(void) {}
void HOOK(http_filter_downstream_above_write_buffer_high_watermark)(void) {}
void HOOK(http_filter_downstream_below_write_buffer_low_watermark)(void) {}

// ---- %LOGGED_TRACE% in the access log

static const char trace_id_word;

Module HOOK(formatter_config_new)(Envoy config, Bytes name, Bytes setting) {
  (void)config;
  return is(name, TEXT("trace_id")) && !setting.size ? &trace_id_word : 0;
}

void HOOK(formatter_config_destroy)(Module config) { (void)config; }

// Null: the word is another's.
Module HOOK(formatter_parse)(Module config, Bytes word, Bytes argument, bool has_most, size_t most) {
  (void)config, (void)most;
  return is(word, TEXT("LOGGED_TRACE")) && !argument.size && !has_most ? &trace_id_word : 0;
}

void HOOK(formatter_provider_destroy)(Module word) { (void)word; }

static bool get_logged(Envoy context, Bytes name, Bytes *value) {
  size_t count = 0;
  *value = (Bytes){0, 0};
  CALL(formatter_get_header_value)(context, REQUEST, name, value, 0, &count);
  return count > 0 && value->at;
}

// The client's trace, or else the one that services name by the request id without its dashes. Envoy copies it at once.
bool HOOK(formatter_format)(Module word, Envoy context, Bytes *result) {
  (void)word;
  static _Thread_local char plain[REQUEST_ID_MOST];
  Bytes value;
  if (get_logged(context, TEXT("traceparent"), &value) && (*result = trace_id(value)).size) return true;
  if (!get_logged(context, TEXT("x-request-id"), &value)) return false;
  *result = (Bytes){plain, write_plain_id(value, plain)};
  return true;
}
