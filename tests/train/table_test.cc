#include "train/table.h"

#include <fstream>
#include <limits>

#include <doctest/doctest.h>

#include "tensor/safetensors.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;
using Tensors = std::map<std::string, Tensor, std::less<>>;

class Files {
 public:
  Table text(const std::string& bytes, const std::string& header = "auto",
             const std::string& name = "f.csv") const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return {folder_ / name, header, ""};
  }
  Table tensors(const Tensors& tensors, const std::string& label = "") const {
    TensorFile file;
    file.tensors = tensors;
    write_safetensors(folder_ / "f.safetensors", file);
    return {folder_ / "f.safetensors", "auto", label};
  }
  // Without the folder's path.
  template <class F>
  std::string error(F&& f) const {
    std::string text = error_of(f);
    const std::string path = folder_.path().string() + "/";
    for (std::size_t at = text.find(path); at != text.npos; at = text.find(path)) {
      text.erase(at, path.size());
    }
    return text;
  }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("table: a text with names, and without") {
  const Files files;
  const Table named = files.text("age,\"my label\"\n+41,yes\n1e2,no\n");
  CHECK(named.has_names());
  CHECK(named.rows() == 2);
  CHECK(named.columns() == 2);
  CHECK(named.number(0, 0) == 41.0);
  CHECK(named.number(1, 0) == 100.0);
  CHECK(!named.number(0, 1));
  CHECK(named.text(1, 1) == "no");
  CHECK(named.place(1, 1).ends_with("f.csv: line 3, column 'my label' is 'no'"));
  CHECK(named.column("my label") == 1);
  CHECK(named.column("2") == 1);
  CHECK(named.label("") == 1);
  CHECK(files.text("label,b\nx,1\n").label("") == 0);

  const Table bare = files.text("1,x\n2,y\n\n3,\n");
  CHECK(!bare.has_names());
  CHECK(bare.rows() == 3);
  CHECK(bare.name(1) == "2");
  CHECK(bare.column("1") == 0);
  CHECK(bare.place(2, 1).ends_with("f.csv: line 4, column '2' is empty"));
  for (const char* bad : {"inf", "nan", "1e999", "0x10", "1 2", "--1", "+-1", ""}) {
    CAPTURE(bad);
    CHECK(!files.text(std::string("7,8\n\"") + bad + "\",9\n").number(1, 0));
  }
}

TEST_CASE("table: whether the first line is names") {
  const Files files;
  CHECK(files.text("a,b\n1,2\n").has_names());
  CHECK(files.text("a,b\nx,y\n").has_names());
  CHECK(!files.text("a,b\nx,y\n", "no").has_names());
  CHECK(files.text("0,1\n2,3\n", "yes").name(1) == "1");
  CHECK(!files.text("5.1,setosa\n4.9,setosa\n").has_names());
  CHECK(files.error([&] { files.text("0,1,label\n5.1,3.5,2\n"); }) ==
        "[own] f.csv: line 1 may be names or a row: it has texts above numbers, and numbers. Say "
        "which with --header yes or --header no.");
}

TEST_CASE("table: errors of a text") {
  const Files files;
  CHECK(files.error([&] { files.text("a,b\n"); }) ==
        "[own] f.csv: it has names in line 1, and no rows. Is it the right file?");
  CHECK(files.error([&] { files.text("a,a\n1,2\n"); }) ==
        "[own] f.csv: line 1: two columns 'a'. Rename one.");
  CHECK(files.error([&] { files.text("age,species\n1,x\n").column("specis"); }) ==
        "[own] f.csv: there is no column 'specis'. The nearest of its 2 is 'species'.");
  CHECK(files.error([&] { files.text("a,b\n1,2\n").column("3"); }).find("no column '3'") !=
        std::string::npos);
  CHECK(files.error([&] { files.text("a", "auto", "f.xlsx"); }) ==
        "[own] 'f.xlsx' ends with '.xlsx'. Give a file: .csv, .tsv, .txt, .npy or .safetensors.");
  const TemporaryFolder folder;
  CHECK(error_of([&] { Table(folder.path(), "auto", ""); }) ==
        "[own] '" + folder.path().string() +
            "' is a folder. Give a file: .csv, .tsv, .npy or .safetensors.");
  CHECK(files.text("1\t2\n", "auto", "F.TSV").columns() == 2);
}

TEST_CASE("table: tensors") {
  const Files files;
  const Tensor x = Tensor::of<float>({2, 1, 2}, {1.5F, 2, 3, 4});
  const Tensor labels = Tensor::of<std::int32_t>({2}, {1, 0});
  const Table table = files.tensors({{"x", x}, {"labels", labels}, {"z", Tensor::scalar(1.0)}});
  CHECK(table.rows() == 2);
  CHECK(table.columns() == 3);
  CHECK(!table.pixels());
  CHECK(table.number(0, 0) == 1.5);
  CHECK(table.label("") == 2);
  CHECK(table.number(0, 2) == 1.0);
  CHECK(table.place(1, 0).ends_with("f.safetensors: row 1, column '0' is '3'"));
  CHECK(files.tensors({{"x", x}, {"y", labels}}, "y").name(2) == "y");
  CHECK(files.tensors({{"x", x}}).columns() == 2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(!files.tensors({{"x", Tensor::of<float>({1, 1}, {nan})}}).number(0, 0));

  const auto error = [&](const Tensors& tensors, const std::string& label = "") {
    return files.error([&] { files.tensors(tensors, label).label(label); });
  };
  CHECK(error({{"x", x}}) ==
        "[own] f.safetensors: no tensor 'labels'. Add it, or give the name of the labels with "
        "--label.");
  CHECK(error({{"x", x}, {"why", labels}}, "y").find("The nearest is") != std::string::npos);
  CHECK(error({{"y", x}}).find("no tensor 'x'") != std::string::npos);
  CHECK(error({{"x", x}, {"labels", x}}) ==
        "[own] f.safetensors: tensor 'labels' is f32 [2, 1, 2], and x has 2 rows. It must be whole "
        "numbers [2].");
  CHECK(error({{"x", Tensor::scalar(1.0)}}).find("It must be [N, ...]") != std::string::npos);
  CHECK(error({{"x", Tensor::of<std::int32_t>({1, 2}, {7, 256})}}) ==
        "[own] f.safetensors: row 0, column '1' is '256'. Whole numbers are pixels, from 0 to 255: "
        "store other numbers as f32 or f64.");
  CHECK(files.tensors({{"x", Tensor::of<std::int32_t>({1, 2}, {7, 255})}}).pixels());
}

}  // namespace
}  // namespace moegrad
