// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Contents. A word of a stream is the mixture of a tag and of its number, and the mixing can be
 * undone: so a wrong word that comes from another place or time says from where and when.
 */
#include "chaos.h"

#include <stdio.h>
#include <string.h>

#define MAGIC 0x2au
#define WORDS 18
#define SEQ 18
#define CELL 13
#define QP 5

/* Odd numbers without a meaning. */
#define FIRST 0x8f3a5c1de7b92461ull
#define SECOND 0xc7d10e9b5a3f6e2dull

/* A bijection of 64-bit words: multiplication by an odd number and a shift that folds. */
uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 32)) * FIRST;
	value = (value ^ (value >> 32)) * SECOND;
	return value ^ (value >> 32);
}

uint64_t rng(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return mix(*state);
}

struct pattern pattern_of(enum phase phase, int end, int qp, int cell, uint64_t seq)
{
	uint64_t tag = MAGIC;

	tag = tag << 1 | (unsigned)end;
	tag = tag << 3 | phase;
	tag = tag << QP | (unsigned)qp;
	tag = tag << CELL | ((unsigned)cell & ((1u << CELL) - 1));
	tag = tag << SEQ | (seq & ((1u << SEQ) - 1));
	return (struct pattern){ .tag = tag << WORDS, .mask = (1u << WORDS) - 1 };
}

/* The same in every page, so that pages can be merged. */
struct pattern pattern_uniform(uint64_t seq)
{
	struct pattern pattern = pattern_of(PHASE_DATA, 0, 0, 0, seq & 1);

	pattern.mask = PAGE / 8 - 1;
	return pattern;
}

static uint64_t whole_word(struct pattern pattern, uint64_t index)
{
	return mix((pattern.tag | (index & pattern.mask)) ^ options.seed);
}

/* The eight bytes from any offset on. */
uint64_t pattern_word(struct pattern pattern, uint64_t offset)
{
	uint64_t word = whole_word(pattern, offset / 8), shift = offset % 8 * 8;

	return shift ? word >> shift | whole_word(pattern, offset / 8 + 1) << (64 - shift) : word;
}

void pattern_fill(uint8_t *at, struct pattern pattern, uint64_t from, uint64_t length)
{
	uint64_t word;

	for (; length && from % 8; length--)
		*at++ = whole_word(pattern, from / 8) >> (from % 8 * 8), from++;
	for (; length >= 8; length -= 8, at += 8, from += 8) {
		word = whole_word(pattern, from / 8);
		memcpy(at, &word, 8);
	}
	word = whole_word(pattern, from / 8);
	memcpy(at, &word, length);
}

static uint64_t wrong_in_word(const uint8_t *at, uint64_t expected, uint64_t found, unsigned count,
			      enum strictness strictness, const char *where, uint64_t offset)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < count; i++) {
		uint8_t is = found >> (8 * i), must = expected >> (8 * i);

		if (is == must || (strictness == OR_ZERO && !is))
			continue;
		if (!wrong)
			report_wrong(where, at + i, offset + i, expected, found);
		wrong++;
	}
	return wrong;
}

uint64_t pattern_check(const uint8_t *at, struct pattern pattern, uint64_t from, uint64_t length,
		       enum strictness strictness, const char *where)
{
	uint64_t wrong = 0, left = length;

	while (left) {
		unsigned skip = from % 8, count = 8 - skip < left ? 8 - skip : left;
		uint64_t expected = whole_word(pattern, from / 8) >> (8 * skip), found = 0;

		memcpy(&found, at, count);
		if (count < 8)
			expected &= (1ull << (8 * count)) - 1;
		if (found != expected)
			wrong += wrong_in_word(at, expected, found, count, strictness, where, from);
		at += count;
		from += count;
		left -= count;
	}
	counts.bytes_checked += length;
	counts.wrong_bytes += wrong;
	return wrong;
}

void span_fill(const struct span *span, struct pattern pattern)
{
	uint64_t from = 0;

	for (int i = 0; i < span->count; i++) {
		pattern_fill(span->piece[i].at, pattern, from, span->piece[i].length);
		from += span->piece[i].length;
	}
}

/* The eight bytes of a changed word may lie in two pieces. */
static uint64_t check_changed(const uint8_t *at, uint64_t from, uint64_t length, uint64_t hole,
			      uint64_t value, const char *where)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < length; i++) {
		uint8_t must = value >> (8 * (from + i - hole));

		if (at[i] != must) {
			report_wrong(where, at + i, from + i, must, at[i]);
			wrong++;
		}
	}
	counts.bytes_checked += length;
	counts.wrong_bytes += wrong;
	return wrong;
}

uint64_t span_check(const struct span *span, struct pattern pattern, int64_t hole, uint64_t value,
		    enum strictness strictness, const char *where)
{
	uint64_t from = 0, wrong = 0;

	for (int i = 0; i < span->count; i++) {
		const uint8_t *at = span->piece[i].at;
		uint64_t end = from + span->piece[i].length, first = end, last = end;

		if (hole >= 0 && (uint64_t)hole < end && (uint64_t)hole + 8 > from) {
			first = (uint64_t)hole > from ? (uint64_t)hole : from;
			last = (uint64_t)hole + 8 < end ? (uint64_t)hole + 8 : end;
		}
		wrong += pattern_check(at, pattern, from, first - from, strictness, where);
		wrong += check_changed(at + (first - from), first, last - first, hole, value, where);
		wrong += pattern_check(at + (last - from), pattern, last, end - last, strictness, where);
		from = end;
	}
	return wrong;
}

static uint64_t fold_back(uint64_t value)
{
	return value ^ (value >> 32);
}

/* The multiplier that undoes an odd one, by Newton's method in the ring of 64-bit words. */
static uint64_t inverse(uint64_t odd)
{
	uint64_t guess = odd;

	for (int i = 0; i < 6; i++)
		guess *= 2 - odd * guess;
	return guess;
}

/* What a word is that should not be there, as far as it tells. */
const char *pattern_name(uint64_t word)
{
	static const char *const phases[] = { "?", "data", "reply", "guard", "stale", "send", "bystander", "child" };
	static char text[160];
	uint64_t value = word;
	unsigned qp, cell;

	if (!word)
		return "zero";
	if (word == 0xaaaaaaaaaaaaaaaaull || word == 0x6b6b6b6b6b6b6b6bull)
		return "poison";
	value = fold_back(fold_back(value) * inverse(SECOND));
	value = fold_back(value * inverse(FIRST)) ^ options.seed;
	qp = value >> (WORDS + SEQ + CELL) & ((1u << QP) - 1);
	cell = value >> (WORDS + SEQ) & ((1u << CELL) - 1);
	if (value >> 58 != MAGIC || qp >= (unsigned)options.qps || !(value >> 54 & 7) ||
	    (value & 0x3ffff) > 1 << 17)
		return "unknown, or not at a word of its stream";
	snprintf(text, sizeof(text), "%s of end %u qp %u lane %u seq %u word %u", phases[value >> 54 & 7],
		 (unsigned)(value >> 57 & 1), qp, cell, (unsigned)(value >> WORDS & 0x3ffff),
		 (unsigned)(value & 0x3ffff));
	return text;
}
