# The work, with the arguments from the sixth on; where it succeeds, a look at the container with the first five.
wait=$1 nodes=$2 packages=$3 files=$4 smi=$5
shift 5
work "$@" || exit
look "$wait" "$nodes" "$packages" "$files" "$smi"
