// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Contents of regions that are paged on demand, from and to any place in a page. */
#include "regions.h"

#define BYTES (64 * PAGE)

/* Where in the region, and how much: within a page, across pages, packets that end nowhere near a page's end. */
static const struct {
	size_t at, bytes;
} parts[] = {
	{ 0, 8 }, { 16, 8 }, { 4091, 13 }, { 4090, 3000 }, { 12345, 20001 }, { 77, BYTES - 78 },
};

static unsigned char wanted(size_t i, unsigned char seed)
{
	return seed + i * 31 + i / PAGE * 7;
}

static void fill(unsigned char *at, size_t bytes, unsigned char seed)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = wanted(i, seed);
}

/* The part holds what was filled in elsewhere, and the bytes around it what they did. */
static void only(const unsigned char *region, size_t at, size_t bytes, unsigned char seed,
		 unsigned char before)
{
	for (size_t i = 0; i < BYTES; i++) {
		int inside = i >= at && i < at + bytes;
		unsigned char right = inside ? wanted(i - at, seed) : before;

		CHECK(region[i] == right, "%zu bytes at %zu: byte %zu is %d, not %d", bytes, at, i,
		      region[i], right);
	}
}

static struct ibv_mr *region(int access)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, fresh(BYTES, PROT_READ | PROT_WRITE), BYTES, access);

	CHECK(mr, "ibv_reg_mr: %m");
	return mr;
}

static void gone(struct ibv_mr *mr)
{
	void *at = mr->addr;

	CHECK(!(errno = ibv_dereg_mr(mr)), "ibv_dereg_mr: %m");
	CHECK(!munmap(at, BYTES), "munmap: %m");
}

static void to_succeed(const struct ibv_mr *from, size_t from_at, size_t bytes,
		       const struct ibv_mr *to, size_t to_at)
{
	uint64_t remote = (uintptr_t)to->addr + to_at;
	int status = write_once(pd, (char *)from->addr + from_at, from->lkey, bytes, remote,
				to->rkey);

	CHECK(status == IBV_WC_SUCCESS, "%zu bytes: %s", bytes, ibv_wc_status_str(status));
}

/* on-demand: WRITEs to such a region and out of one, whose pages are there or not. */
void on_demand(void)
{
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		size_t at = parts[i].at, bytes = parts[i].bytes;
		struct ibv_mr *pinned = region(ALL), *paged = region(ALL | IBV_ACCESS_ON_DEMAND);

		fill(pinned->addr, bytes, i + 1);
		to_succeed(pinned, 0, bytes, paged, at);
		only(paged->addr, at, bytes, i + 1, 0);

		memset(paged->addr, 0, BYTES);
		memset(pinned->addr, 5, BYTES);
		fill((unsigned char *)paged->addr + at, bytes, i + 100);
		to_succeed(paged, at, bytes, pinned, at);
		only(pinned->addr, at, bytes, i + 100, 5);
		gone(paged);
		gone(pinned);
	}
}
