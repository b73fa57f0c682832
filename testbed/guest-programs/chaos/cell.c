// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The buffer in cells. Each queue pair has lanes, of which each has a cell that data comes from,
 * one that a READ puts data into, and one that the peer's lane of the same number writes; and
 * cells for messages. A cell consists of whole pages of its own.
 *
 * Only the traffic thread changes a cell's state, and a mutating thread only takes and gives back
 * the HELD bit (and turns PARKED into MUTATED): one of them at a time.
 */
#include "chaos.h"

#include <sched.h>
#include <stdlib.h>

struct layout layout;
struct cell *cells;
int cell_count;

static int recvs_of(int count)
{
	int recvs = count / 5;

	return recvs < 2 ? 2 : recvs > 64 ? 64 : recvs;
}

void cells_make(uint64_t granule)
{
	uint64_t share = options.buffer_mib << 20;

	share = share / options.qps & -(uint64_t)PAGE;
	layout.longest = 1 << 20;
	/* One spare granule lets queue pairs begin at a page of the mapping. */
	for (;; layout.longest /= 2) {
		layout.stride = (layout.longest + 2 * PAGE + granule - 1) / granule * granule;
		layout.cells = share / layout.stride;
		if (layout.cells >= 11 || layout.longest == PAGE)
			break;
	}
	layout.recvs = recvs_of(layout.cells);
	layout.lanes = (layout.cells - layout.recvs) / 3;
	if (layout.lanes > 4095)
		layout.lanes = 4095;
	if (layout.lanes < 1)
		fail("a buffer of %llu MiB is too small for %d queue pairs", (unsigned long long)options.buffer_mib,
		     options.qps);
	layout.cells = 3 * layout.lanes + layout.recvs;
	cell_count = layout.cells * options.qps;
	cells = calloc(cell_count, sizeof(*cells));
	if (!cells)
		fail("no memory for cells");
	for (int i = 0; i < cell_count; i++) {
		int lane = i % layout.cells;

		cells[i] = (struct cell){
			.at = memory.at + i * layout.stride,
			.state = PARKED,
			.use = lane < 3 * layout.lanes ? (enum use)(lane % 3) : USE_RECV,
			.qp = i / layout.cells,
			.lane = lane < 3 * layout.lanes ? lane / 3 : lane - 3 * layout.lanes,
		};
	}
}

struct cell *cell_of(int qp, enum use use, int lane)
{
	return &cells[qp * layout.cells + (use == USE_RECV ? 3 * layout.lanes + lane : 3 * lane + (int)use)];
}

uint64_t cell_offset(const struct cell *cell)
{
	return cell->at - memory.at;
}

bool cell_try_own(struct cell *cell)
{
	int seen = atomic_load(&cell->state);

	return !(seen & HELD) && atomic_compare_exchange_strong(&cell->state, &seen, OWNED);
}

void cell_own(struct cell *cell)
{
	while (!cell_try_own(cell))
		sched_yield();
}

void cell_set(struct cell *cell, enum state state)
{
	atomic_store(&cell->state, state);
}

enum state cell_state(struct cell *cell)
{
	return atomic_load(&cell->state) & ~HELD;
}

struct cell *cell_hold(uint64_t *random, uint32_t states)
{
	for (int tries = 0; tries < 32; tries++) {
		struct cell *cell = &cells[rng(random) % cell_count];
		int seen = atomic_load(&cell->state);

		if (seen & HELD || !(states & 1u << seen))
			continue;
		if (atomic_compare_exchange_strong(&cell->state, &seen, seen | HELD))
			return cell;
	}
	return NULL;
}

void cell_release(struct cell *cell)
{
	int state = atomic_load(&cell->state) & ~HELD;

	atomic_store(&cell->state, state == PARKED ? MUTATED : state);
}
