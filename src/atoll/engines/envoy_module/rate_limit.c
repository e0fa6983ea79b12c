// What a client is told of its rate limit: requests and seconds.

#include "core.h"

enum { READ_MOST = 18 };  // digits, which a number of 64 bits can hold

static bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }

// Moves `text` behind the number that it begins with.
static bool take_number(Bytes *text, uint64_t *number) {
  size_t size = 0;
  for (*number = 0; size < text->size && is_digit(text->at[size]); size++) {
    if (size == READ_MOST) return false;
    *number = *number * 10 + (uint64_t)(text->at[size] - '0');
  }
  text->at += size, text->size -= size;
  return size > 0;
}

static bool take(Bytes *text, char byte) {
  if (!text->size || text->at[0] != byte) return false;
  text->at++, text->size--;
  return true;
}

static bool take_bucket(Bytes *text, Bucket *bucket) {
  return take_number(text, &bucket->size) && take(text, ' ') && take_number(text, &bucket->cost) && take(text, ' ') &&
         take_number(text, &bucket->a_second) && take(text, ' ') && take_number(text, &bucket->limit) && bucket->cost &&
         bucket->a_second;
}

bool read_buckets(Bytes text, Buckets *buckets) {
  for (buckets->count = 0; buckets->count < BUCKETS_MOST; ) {
    if (!take_bucket(&text, &buckets->buckets[buckets->count++])) return false;
    if (!text.size) return true;
    if (!take(&text, ',')) return false;
  }
  return false;
}

static bool read_number(Bytes text, uint64_t *number) { return take_number(&text, number) && !text.size; }

static const Bucket *of_size(const Buckets *buckets, uint64_t size) {
  for (size_t i = 0; i < buckets->count && i < BUCKETS_MOST; i++)
    if (buckets->buckets[i].size == size) return &buckets->buckets[i];
  return 0;
}

// Seconds until there is as much as `wanted`, rounded up.
static uint64_t until(uint64_t wanted, uint64_t left, uint64_t a_second) {
  return wanted > left ? (wanted - left + a_second - 1) / a_second : 0;
}

bool tell(const Buckets *buckets, Bytes said_size, Bytes said_left, Told *told) {
  uint64_t size, left;
  if (!read_number(said_size, &size) || !read_number(said_left, &left)) return false;
  const Bucket *bucket = of_size(buckets, size);
  if (!bucket) return false;
  told->limit = bucket->limit;
  told->remaining = left / bucket->cost;
  told->reset_s = until(size, left, bucket->a_second);
  told->wait_s = until(bucket->cost, left, bucket->a_second);
  return true;
}

size_t write_number(uint64_t number, char into[DIGITS_MOST]) {
  char turned[DIGITS_MOST];
  size_t size = 0;
  do turned[size++] = (char)('0' + number % 10);
  while (number /= 10);
  for (size_t i = 0; i < size; i++) into[i] = turned[size - 1 - i];
  return size;
}
