// GnuTLS, found when it is first needed.
#ifndef CGNUTLS_H
#define CGNUTLS_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

/// Finds the library, which has to succeed before any other function of it is called. May be called any
/// number of times, by one thread at a time. Returns NULL, or why it cannot be had.
const char *dmthin_find_gnutls(void);

#endif
