# Start the worker in a container in which the environment lies at its own path; $@: the arguments of its Python.
# POSIX sh; what else the image has is not known, so that the environment's Python does the rest.
. ./packages.conf

packages_say() { echo "packages: $1" >&2; }
packages_cannot() { packages_say "$1"; exit "$EXIT_NODE"; }

packages_libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || packages_libc=
packages_libc=${packages_libc#glibc 2.} packages_libc=${packages_libc%%.*}
[ -z "$packages_libc" ] || [ "$packages_libc" -ge "$GLIBC" ] || packages_cannot "the image has glibc 2.$packages_libc, and the \
packages need glibc 2.$GLIBC: use another container_image"
[ -x "$PROGRAM" ] || packages_cannot "Apptainer has not bound $PROGRAM into the container"

# Of the notebook's system libraries only those are taken that the image lacks.
mkdir -p missing || exit "$EXIT_UNPACK"
for packages_library in "$EXTRAS"/libraries/*; do
    packages_name=${packages_library##*/} packages_found=
    for packages_place in /lib64 /usr/lib64 "/lib/$MACHINE-linux-gnu" "/usr/lib/$MACHINE-linux-gnu" /lib /usr/lib; do
        [ -e "$packages_place/$packages_name" ] && packages_found=yes && break
    done
    [ -n "$packages_found" ] || [ ! -e "$packages_library" ] || {
        ln -sf "$packages_library" "missing/$packages_name" || exit "$EXIT_UNPACK"
        export LD_LIBRARY_PATH="$PWD/missing"
    }
done

unset PYTHONHOME
"$PROGRAM" -E packages_preload.py local.tar.gz "$LOCAL"
case $? in
    0) ;;
    1) packages_say "the local code cannot be unpacked in $PWD"; exit "$EXIT_UNPACK" ;;
    *) packages_cannot "the packages' Python does not run in this image" ;;
esac
packages_prefix=${EXTRAS%/*}
[ ! -d "$packages_prefix/conda-meta" ] || export CONDA_PREFIX="$packages_prefix" PATH="$packages_prefix/bin:$PATH"
export PYTHONPATH="$PWD/local" PYTHONNOUSERSITE=1 HTCDASK_PACKAGES_KEY="$KEY"
[ -r "$CERTIFICATES" ] || [ ! -r "$EXTRAS/certificates.pem" ] || [ -n "$SSL_CERT_FILE" ] || export SSL_CERT_FILE="$EXTRAS/certificates.pem"
packages_say "at their own path, $PROGRAM"
exec "$PROGRAM" "$@"
