/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What programs may do with memory regions: shared parts. */
#ifndef REGIONS_H
#define REGIONS_H

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define ALL                                                                                        \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

/* Ends the program with what it found, unless the condition holds. */
#define CHECK(condition, format, ...)                                                              \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: " format "\n", __FILE__, __LINE__, ##__VA_ARGS__); \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* A call that must fail, and why it must. */
#define FAILS(call, reason)                                                                        \
	do {                                                                                       \
		errno = 0;                                                                         \
		int failed_ = !(call);                                                             \
		CHECK(failed_ && errno == (reason), "%s: %s, not %s", #call,                       \
		      failed_ ? strerror(errno) : "it succeeds", strerror(reason));                \
	} while (0)

extern struct ibv_context *context;
extern struct ibv_pd *pd;

/* main.c */
unsigned char *fresh(size_t bytes, int protection);
size_t resident(const void *at, size_t bytes);
int write_once(struct ibv_pd *domain, const void *from, uint32_t lkey, uint32_t bytes,
	       uint64_t to, uint32_t rkey);
void writes(struct ibv_pd *domain, const struct ibv_mr *from, uint32_t bytes, uint64_t to,
	    uint32_t rkey);

/* advise.c */
void advise(void);
void advised_write(void);
void unadvised_write(void);
void advise_and_go(void);

/* change.c */
void change(void);

/* on_demand.c */
void on_demand(void);

/* register.c */
void capabilities(void);
void implicit_refused(void);
void implicit_works(void);
void by_iova(void);
void forks(void);
void dmabuf(void);

#endif
