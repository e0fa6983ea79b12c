// One credential for each request, in the form that services read it.

#include "core.h"

#include <string.h>

static const char SCHEME[] = "bearer", OFFER[] = "bearer.";
enum { SCHEME_SIZE = sizeof SCHEME - 1, OFFER_SIZE = sizeof OFFER - 1 };

static bool is_scheme(Bytes value) {
  if (value.size < SCHEME_SIZE) return false;
  for (size_t i = 0; i < SCHEME_SIZE; i++)
    if ((value.at[i] | 32) != SCHEME[i]) return false;
  return true;
}

static bool is_of_token(char byte) {
  return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '.' ||
         byte == '_' || byte == '~' || byte == '+' || byte == '/' || byte == '-';
}

// RFC 6750 §2.1, with a scheme in any case (RFC 9110 §11.1).
bool is_bearer(Bytes value) {
  if (!is_scheme(value)) return false;
  size_t at = SCHEME_SIZE, begin;
  while (at < value.size && value.at[at] == ' ') at++;
  if (at == SCHEME_SIZE) return false;
  for (begin = at; at < value.size && is_of_token(value.at[at]);) at++;
  if (at == begin) return false;
  while (at < value.size && value.at[at] == '=') at++;
  return at == value.size;
}

// A token is one of the protocols, `bearer.…`. Doubtful is more than one, or one that is not the beginning of a protocol.
Offered offered(Bytes value) {
  Offered found = NONE_OFFERED;
  for (size_t at = 0; value.size - at >= OFFER_SIZE;) {
    if (memcmp(value.at + at, OFFER, OFFER_SIZE)) {
      at++;
      continue;
    }
    char before = at ? value.at[at - 1] : ',';
    if (found != NONE_OFFERED || (before != ' ' && before != '\t' && before != ',')) return DOUBTFUL;
    found = ONE_OFFERED;
    at += OFFER_SIZE;
  }
  return found;
}
