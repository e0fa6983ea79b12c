// What this module uses of Envoy's interface for dynamic modules, version v0.2.0, which Envoy 1.40 has. Envoy refuses a module
// that lacks a hook, and the dynamic linker one that asks for a callback that Envoy lacks; that their parameters are these, no
// machine checks: another Envoy needs a look at
// https://github.com/envoyproxy/envoy/blob/main/source/extensions/dynamic_modules/abi/abi.h
#pragma once

#include "core.h"

#define ENVOY_ABI "v0.2.0"
#define HOOK(name) __attribute__((visibility("default"))) envoy_dynamic_module_on_##name
#define CALL(name) envoy_dynamic_module_callback_##name

typedef void *Envoy;         // whatever of Envoy's a hook is about; it is given back in calls
typedef const void *Module;  // what a hook of ours has made

enum { NETWORK_CONTINUE, NETWORK_STOP };
enum { HTTP_CONTINUE, HTTP_STOP };
enum { REQUEST = 0, RESPONSE = 2 };  // whose headers
enum { CLOSE_WITHOUT_FLUSH = 1 };
enum { RESPONSE_CODE_DETAILS = 16 };  // among the attributes

// Bytes of Envoy's are good until the hook ends, or until a call changes what they are part of.
size_t CALL(network_filter_get_read_buffer_chunks_size)(Envoy);
bool CALL(network_filter_get_read_buffer_chunks)(Envoy, Bytes *pieces);
bool CALL(network_filter_drain_read_buffer)(Envoy, size_t size);
bool CALL(network_filter_append_read_buffer)(Envoy, Bytes more);
void CALL(network_filter_close)(Envoy, int how);
Module CALL(get_most_specific_route_config)(Envoy);
bool CALL(http_get_header)(Envoy, int whose, Bytes name, Bytes *value, size_t index, size_t *count);
// A value that is null removes it.
bool CALL(http_set_header)(Envoy, int whose, Bytes name, Bytes value);
bool CALL(http_filter_get_attribute_string)(Envoy, int attribute, Bytes *value);
void CALL(http_send_response)(Envoy, uint32_t status, void *headers, size_t count, Bytes body, Bytes details);
bool CALL(formatter_get_header_value)(Envoy, int whose, Bytes name, Bytes *value, size_t index, size_t *count);
