/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What it costs that registered memory is pinned, or is not: each call of the program measures one
 * thing once, so that whoever calls it can let several devices and states take turns.
 *
 *	main        the command line              device      verbs, and a queue pair to itself
 *	register    registering memory            touch       the first WRITE to a page
 *	invalidate  taking pages away             regions     a process with many regions
 *	samples     numbers, and their printing   traffic     keeping the device busy
 *
 * Prints lines "KEY VALUE..." of times in nanoseconds, "KEY none REASON" for what cannot be
 * measured, and "KEY count NUMBER". Ends with a line "end".
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096ul
#define DEPTH 64

_Noreturn void fail(const char *what);

/* ---- samples ---- */

uint64_t now(void);
/* Sleeps some milliseconds. */
void nap(unsigned ms);
void print(const char *line);
/* Remembers a time for the key; all of them are printed at the end. */
void sample(const char *key, uint64_t ns);
void none(const char *key, const char *reason);
void count(const char *key, uint64_t number);
void samples_print(void);

/* ---- memory ---- */

/* Address space in small pages; touched only if asked for. */
uint8_t *memory_map(uint64_t length, bool touched);
void memory_touch(uint8_t *at, uint64_t length);
/* Pages of a range that are in the page table, and those that are swapped out. */
uint64_t memory_present(const uint8_t *at, uint64_t length);
uint64_t memory_swapped(const uint8_t *at, uint64_t length);

/* ---- the device ---- */

struct device {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp; /* connected to itself */
	int gid_index;
};

struct device device_open(const char *name, int gid_index);
void device_connect(struct device *device);
struct ibv_mr *device_register(struct device *device, uint8_t *at, uint64_t length);
void device_write(struct device *device, struct ibv_mr *from, struct ibv_mr *to, uint64_t offset,
		  uint32_t length);
/* Waits for the completion of one WRITE. */
void device_wait(struct device *device);

/* ---- traffic ---- */

/* WRITEs from a buffer to another one, in a thread. */
void traffic_start(struct device *device, struct ibv_mr *from, uint32_t length);
/* The same in a process of its own with memory of its own; returns when it has begun. */
void traffic_process(const char *name, int gid_index);
/* WRITEs completed by the thread. */
uint64_t traffic_done(void);

/* ---- what is measured ---- */

int measure_register(const char *name, int gid_index, int times, char **arguments);
int measure_touch(const char *name, int gid_index, int times, char **arguments);
int measure_invalidate(const char *name, int gid_index, int times, char **arguments);
int measure_regions(const char *name, int gid_index, int times, char **arguments);

#endif
