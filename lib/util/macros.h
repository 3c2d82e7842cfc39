/*
 * Small macros that every file may use.
 *
 * CLEANUP(fn) releases a local when it leaves scope; fn takes a pointer to the variable.
 * TAKE(p) hands ownership on: it yields the pointer and leaves NULL behind, so a CLEANUP local
 * does not release what was given away.
 */
#ifndef CONCLAVE_UTIL_MACROS_H
#define CONCLAVE_UTIL_MACROS_H

#include <stddef.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define TAKE(p)                                                                                    \
    __extension__({                                                                                \
        __typeof__(p) *take_ptr_ = &(p);                                                           \
        __typeof__(p) take_val_ = *take_ptr_;                                                      \
        *take_ptr_ = NULL;                                                                         \
        take_val_;                                                                                 \
    })
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member)                                                            \
    ((type *)(void *)((char *)(ptr) - offsetof(type, member)))
#undef MIN /* sys/param.h has the same pair */
#undef MAX
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))

/* A bug in our own code, or an environment we cannot go on in: says where and why, then aborts. */
#define PANIC(...) panic_at(__FILE__, __LINE__, __VA_ARGS__)
NORETURN void panic_at(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
