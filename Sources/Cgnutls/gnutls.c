// The functions of GnuTLS in use, each calling the library's function of that name. If the program
// were linked to the library, it would load the library and its eight dependencies at each start,
// which takes longer than most commands run; only one of them encrypts.
#include "Cgnutls.h"

#include <dlfcn.h>

// The program's own symbols, which the library must not find in place of its own.
#define OURS __attribute__((visibility("hidden")))

#define FUNCTIONS(F, P)                                                                            \
    F(int, gnutls_init, (gnutls_session_t * s, unsigned flags), (s, flags))                        \
    P(gnutls_deinit, (gnutls_session_t s), (s))                                                    \
    F(int, gnutls_handshake, (gnutls_session_t s), (s))                                            \
    F(int, gnutls_bye, (gnutls_session_t s, gnutls_close_request_t how), (s, how))                 \
    F(int, gnutls_error_is_fatal, (int error), (error))                                            \
    F(int, gnutls_alert_send_appropriate, (gnutls_session_t s, int error), (s, error))             \
    F(const char *, gnutls_strerror, (int error), (error))                                         \
    F(int, gnutls_priority_set_direct, (gnutls_session_t s, const char *text, const char **at),    \
      (s, text, at))                                                                               \
    F(int, gnutls_credentials_set, (gnutls_session_t s, gnutls_credentials_type_t t, void *c),     \
      (s, t, c))                                                                                   \
    P(gnutls_transport_set_int2, (gnutls_session_t s, int in, int out), (s, in, out))              \
    F(size_t, gnutls_record_check_pending, (gnutls_session_t s), (s))                              \
    F(int, gnutls_record_get_direction, (gnutls_session_t s), (s))                                 \
    F(ssize_t, gnutls_record_recv, (gnutls_session_t s, void *bytes, size_t count),                \
      (s, bytes, count))                                                                           \
    F(ssize_t, gnutls_record_send, (gnutls_session_t s, const void *bytes, size_t count),          \
      (s, bytes, count))                                                                           \
    P(gnutls_session_set_verify_cert, (gnutls_session_t s, const char *host, unsigned flags),      \
      (s, host, flags))                                                                            \
    F(int, gnutls_certificate_allocate_credentials, (gnutls_certificate_credentials_t * c), (c))   \
    P(gnutls_certificate_free_credentials, (gnutls_certificate_credentials_t c), (c))              \
    P(gnutls_certificate_server_set_request,                                                       \
      (gnutls_session_t s, gnutls_certificate_request_t request), (s, request))                    \
    F(int, gnutls_certificate_set_x509_key_file,                                                   \
      (gnutls_certificate_credentials_t c, const char *certificate, const char *key,               \
       gnutls_x509_crt_fmt_t format),                                                              \
      (c, certificate, key, format))                                                               \
    F(int, gnutls_certificate_set_x509_trust_file,                                                 \
      (gnutls_certificate_credentials_t c, const char *path, gnutls_x509_crt_fmt_t format),        \
      (c, path, format))                                                                           \
    F(int, gnutls_certificate_get_x509_key,                                                        \
      (gnutls_certificate_credentials_t c, unsigned index, gnutls_x509_privkey_t *key),            \
      (c, index, key))                                                                             \
    F(gnutls_sec_param_t, gnutls_x509_privkey_sec_param, (gnutls_x509_privkey_t key), (key))       \
    P(gnutls_x509_privkey_deinit, (gnutls_x509_privkey_t key), (key))                              \
    F(int, gnutls_psk_allocate_server_credentials, (gnutls_psk_server_credentials_t * c), (c))     \
    P(gnutls_psk_free_server_credentials, (gnutls_psk_server_credentials_t c), (c))                \
    F(int, gnutls_psk_set_server_credentials_file,                                                 \
      (gnutls_psk_server_credentials_t c, const char *path), (c, path))

// The compiler checks each against the header's declaration.
#define FUNCTION(result, name, parameters, arguments)                                              \
    static __typeof__(name) *found_##name;                                                         \
    OURS result name parameters { return found_##name arguments; }
#define PROCEDURE(name, parameters, arguments)                                                     \
    static __typeof__(name) *found_##name;                                                         \
    OURS void name parameters { found_##name arguments; }
FUNCTIONS(FUNCTION, PROCEDURE)

const char *dmthin_find_gnutls(void) {
    static void *library;
    if (library) return 0;
    void *found = dlopen("libgnutls.so.30", RTLD_NOW | RTLD_LOCAL);
    if (!found) return dlerror();
#define FIND(name)                                                                                 \
    found_##name = (__typeof__(name) *)dlsym(found, #name);                                        \
    if (!found_##name) return dlerror();
#define FIND_FUNCTION(result, name, parameters, arguments) FIND(name)
#define FIND_PROCEDURE(name, parameters, arguments) FIND(name)
    FUNCTIONS(FIND_FUNCTION, FIND_PROCEDURE)
    library = found;
    return 0;
}
