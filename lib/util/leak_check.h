/*
 * What the leak checker of an address-sanitizer build is told. Nothing in other builds.
 */
#ifndef CONCLAVE_UTIL_LEAK_CHECK_H
#define CONCLAVE_UTIL_LEAK_CHECK_H

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

/* From here on `block` (from malloc), and what only it leads to, is in the hands of a library that
 * is known to lose some. Say it before the library gets it; it may be freed as ever. */
static inline void leak_check_give_away(const void *block)
{
#if defined(__SANITIZE_ADDRESS__)
    __lsan_ignore_object(block);
#else
    (void)block;
#endif
}

#endif
