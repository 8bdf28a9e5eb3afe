// GnuTLS, loaded when it is first needed.
#ifndef CGNUTLS_H
#define CGNUTLS_H

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

/// Loads the library. Must succeed before any other function of the library is called. May be
/// called more than once, by one thread at a time. Returns NULL, or the reason of the failure.
const char *dmthin_find_gnutls(void);

#endif
