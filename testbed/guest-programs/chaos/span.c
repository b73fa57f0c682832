// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Where in a cell something lies: at any offset, in one or several pieces with gaps. */
#include "chaos.h"

/* A random offset, with a liking for the edges of pages and of cache lines. */
static uint64_t offset_within(uint64_t room, uint64_t *random)
{
	uint64_t at = rng(random) % (room + 1), bits = rng(random);

	if (bits % 8 == 0 && at >= 64)
		at &= ~63ull;
	else if (bits % 8 == 1 && at >= PAGE)
		at = (at & -(uint64_t)PAGE) - MARGIN;
	else if (bits % 8 == 2 && at >= PAGE)
		at = (at & -(uint64_t)PAGE) - MARGIN - 1 - (bits >> 8) % 16;
	return at;
}

struct span span_in(struct cell *cell, uint32_t length, uint64_t *random)
{
	uint64_t room = layout.stride - 2 * MARGIN - length, gap = rng(random) % 200;
	struct span span = { .count = 1 };
	uint8_t *at;

	if (rng(random) % 2)
		span.count = 1 + rng(random) % link_.sges;
	if (length < 4u * span.count || room < gap * (span.count - 1))
		span.count = 1;
	room -= gap * (span.count - 1);
	at = cell->at + MARGIN + offset_within(room, random);
	for (int i = 0; i < span.count; i++) {
		uint32_t rest = span.count - 1 - i, most = length - rest;

		span.piece[i].at = at;
		span.piece[i].length = rest ? 1 + rng(random) % (most - 1) : length;
		at += span.piece[i].length + gap;
		length -= span.piece[i].length;
	}
	return span;
}

struct span span_part(const struct span *span, uint32_t from, uint32_t length)
{
	struct span part = { 0 };

	for (int i = 0; i < span->count && length; i++) {
		struct piece piece = span->piece[i];
		uint32_t skip = from < piece.length ? from : piece.length;

		from -= skip;
		piece.at += skip;
		piece.length -= skip;
		if (piece.length > length)
			piece.length = length;
		length -= piece.length;
		if (piece.length)
			part.piece[part.count++] = piece;
	}
	return part;
}

void guards_fill(const struct span *span, struct pattern guard)
{
	const struct piece *last = &span->piece[span->count - 1];

	pattern_fill(span->piece[0].at - GUARD, guard, 0, GUARD);
	pattern_fill(last->at + last->length, guard, GUARD, GUARD);
}

void guards_check(const struct span *span, struct pattern guard, enum strictness strictness, const char *where)
{
	const struct piece *last = &span->piece[span->count - 1];

	pattern_check(span->piece[0].at - GUARD, guard, 0, GUARD, strictness, where);
	pattern_check(last->at + last->length, guard, GUARD, GUARD, strictness, where);
}
